package announce

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"

	"ntrack/announce/wire"
)

// Every peer id begins with idPrefix: the client and its version, as BEP 20 recommends.
const idPrefix = "-NT0100-"

// newID returns a random peer id.
func newID() wire.ID {
	var id wire.ID
	_, _ = rand.Read(id[copy(id[:], idPrefix):])
	return id
}

// classicID returns the peer id and the `key` parameter for a classic tracker. Both are derived from
// the secret. If r.ID is not zero, it is the id instead.
func (c *Client) classicID(t Tracker, r *Request) (id wire.ID, key uint32) {
	c.once.Do(c.init)
	hash := r.Key.InfoHash()
	text := append(hash[:], r.ID[:]...)
	text = binary.BigEndian.AppendUint16(text, r.Port)
	mac := hmac.New(sha256.New, c.secret)
	u := t.FullURL()
	u.User = nil // the id does not depend on the password
	if u.RawQuery != "" {
		u.RawQuery += "&" // earlier versions have hashed this character, and the id must not change
	}
	mac.Write(append(text, u.String()...))
	sum := mac.Sum(nil)
	if id = r.ID; id == (wire.ID{}) {
		copy(id[copy(id[:], idPrefix):], sum)
	}
	return id, binary.BigEndian.Uint32(sum[len(id)-len(idPrefix):])
}
