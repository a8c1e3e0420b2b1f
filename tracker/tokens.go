package tracker

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
)

// tokens are the hashes of the access tokens. A tracker without tokens serves everybody.
type tokens [][sha256.Size]byte

func hashTokens(list []string) *tokens {
	t := make(tokens, len(list))
	for i, token := range list {
		t[i] = sha256.Sum256([]byte(token))
	}
	return &t
}

// SetTokens replaces Tokens. It may be called at any time. Streams whose clients sent a token that is
// not among the new ones end, and so do streams without a token, unless no token is needed now.
func (t *Tracker) SetTokens(list ...string) {
	t.once.Do(t.init)
	accepted := hashTokens(list)
	t.tokens.Store(accepted)
	t.endStreamsIf(func(s *Stream) bool { return !accepted.haveTag(s.token) })
}

// admit says whether a call may be served, and notes its token. fromPath is the token in its path, or
// nil. admit takes the same time whichever token the call has, and if it has a wrong one.
func (t *tokens) admit(c *Call, fromPath []byte) bool {
	if len(*t) == 0 {
		return true
	}
	if fromPath == nil {
		fromPath = c.givenToken()
	}
	sum, found := sha256.Sum256(fromPath), 0
	for i := range *t {
		found |= subtle.ConstantTimeCompare((*t)[i][:], sum[:])
	}
	c.tokenTag = tagOf(&sum)
	return found == 1
}

// tagOf returns the beginning of the hash of a token. A stream keeps it to know its token again. It
// is not 0.
func tagOf(sum *[sha256.Size]byte) uint32 { return binary.BigEndian.Uint32(sum[:]) | 1 }

// haveTag says whether a stream may stay open whose token has this tag. 0 is a stream without one.
func (t *tokens) haveTag(tag uint32) bool {
	for i := range *t {
		if tagOf(&(*t)[i]) == tag {
			return true
		}
	}
	return len(*t) == 0
}

// givenToken returns the token of a call: its bearer token (RFC 6750), or the password of its basic
// authentication (RFC 7617). It is empty if there is none.
func (c *Call) givenToken() []byte {
	scheme, given, _ := bytes.Cut(bytes.TrimSpace(c.Authorization), []byte(" "))
	given = bytes.TrimSpace(given)
	switch {
	case equalFold(scheme, "bearer"):
		return given
	case equalFold(scheme, "basic"):
		userPass, err := base64.StdEncoding.DecodeString(string(given))
		if err != nil {
			return nil
		}
		_, password, _ := bytes.Cut(userPass, []byte(":"))
		return password
	}
	return nil
}
