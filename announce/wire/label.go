package wire

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// ParseLabel returns the peer id that carries s as a label: its bytes, and zero bytes after them. s has
// 1 to 20 bytes of UTF-8 with printable characters only, and neither begins nor ends with a space.
func ParseLabel(s string) (ID, error) {
	var id ID
	switch {
	case s == "":
		return id, errors.New("it is empty")
	case !utf8.ValidString(s):
		return id, errors.New("it is not UTF-8")
	case len(s) > len(id):
		return id, fmt.Errorf("it has %d bytes", len(s))
	case strings.TrimSpace(s) != s:
		return id, errors.New("it begins or ends with a space")
	case Clean(s) != s:
		return id, errors.New("it has a character that is not printable")
	}
	copy(id[:], s)
	return id, nil
}

// Label returns the label that a peer id carries, or "" if it carries none. It comes from a stranger:
// call [Clean] before you print it. docs/PROTOCOL.md, Labels, has the rule.
func (id ID) Label() string { return string(id.label()) }

// label returns a part of id.
func (id *ID) label() []byte {
	text := id[:]
	for len(text) > 0 && text[len(text)-1] == 0 {
		text = text[:len(text)-1]
	}
	ascii := 0 // how many bytes at the beginning are ASCII; most labels are, and this loop is fast
	for ascii < len(text) && 0x20 <= text[ascii] && text[ascii] < 0x7f {
		ascii++
	}
	if rest := text[ascii:]; utf8.Valid(rest) && !bytes.ContainsFunc(rest, escapedInJSON) {
		return text
	}
	// The id of a BitTorrent client, such as -qB4520- and twelve random bytes.
	const size = 8
	if text = id[:size]; text[size-1] != '-' || bytes.ContainsFunc(text, notInClient) {
		return nil
	}
	return text
}

func notInClient(r rune) bool {
	return !('0' <= r && r <= '9' || 'a' <= r|0x20 && r|0x20 <= 'z' || r == '-')
}

// appendLabels appends the labels of peers as the JSON member "labels".
func appendLabels(dst []byte, peers []Peer) []byte {
	dst = append(dst, `,"labels":[`...)
	for i := range peers {
		if i > 0 {
			dst = append(dst, ',')
		}
		if label := peers[i].ID.label(); len(label) > 0 {
			dst = appendJSONString(dst, label)
		} else {
			dst = append(dst, "null"...)
		}
	}
	return append(dst, ']')
}

// setLabels reads the labels of a reply in JSON: a list that is parallel to the peers. It skips what is no
// label.
func (r *Reply) setLabels(peers, labels any) {
	list, _ := peers.([]any)
	texts, _ := labels.([]any)
	if len(list) != len(texts) {
		return
	}
	for i := range list {
		peer, _ := list[i].(string)
		text, _ := texts[i].(string)
		e, _ := netip.ParseAddrPort(peer)
		if text = Clean(text); canDial(e, 1) && text != "" && len(text) <= len(ID{}) {
			r.addLabel(Canonical(e), text)
		}
	}
}

// addLabel sets the label of a peer that has none yet.
func (r *Reply) addLabel(e netip.AddrPort, label string) {
	if r.Labels == nil {
		r.Labels = make(map[netip.AddrPort]string)
	}
	if r.Labels[e] == "" {
		r.Labels[e] = label
	}
}
