package output

import (
	"strconv"
	"strings"

	"ntrack/announce/wire"
)

// clients are the BitTorrent clients that people meet, by the two letters of their peer ids (BEP 20).
var clients = map[string]string{
	"AZ": "Vuze", "BI": "BiglyBT", "BT": "BitTorrent", "BW": "BitTorrent Web", "DE": "Deluge",
	"FD": "Free Download Manager", "KT": "KTorrent", "LT": "libtorrent", "NT": "ntrack",
	"TR": "Transmission", "UM": "\u00b5Torrent Mac", "UT": "\u00b5Torrent", "UW": "\u00b5Torrent Web",
	"WD": "WebTorrent Desktop", "WW": "WebTorrent", "lt": "rTorrent", "qB": "qBittorrent",
}

// labelText returns a label as people read it. If it is the peer id of a BitTorrent client, that is the
// client and its version. The result is safe to print.
func labelText(label string) string {
	label = wire.Clean(label)
	// A client fills its id, of which package wire returns all 20 bytes or the first eight. Any other
	// length is a label that a person has chosen.
	if n := len(label); n != 8 && n != len(wire.ID{}) {
		return label
	}
	switch id := label[:8]; {
	case id[0] == '-' && id[7] == '-' && alphanumeric(id[1:7]):
		return dashed(id[1:3], id[3:7])
	case id[:3] == "TIX" && id[7] == '-' && number(id[3:7]): // TIX0333- is 3.33
		return "Tixati " + strings.TrimPrefix(id[3:5], "0") + "." + id[5:7]
	case id[:3] == "A2-":
		return numbered("aria2", label[3:], label)
	case id[0] == 'M' && id[7] == '-':
		return numbered("BitTorrent", label[1:], label)
	}
	return label
}

// dashed returns the client and the version of an id such as -qB4520-. Each character of the version is
// a number, and 10 and more are letters.
func dashed(code, version string) string {
	name := clients[code]
	if name == "" {
		name = code
	}
	switch {
	case code == "TR" && version[0] < '4' && number(version[:3]): // 3.00 and before
		return name + " " + version[:1] + "." + version[1:3]
	case (code == "WW" || code == "WD") && number(version): // two numbers of two digits
		major, _ := strconv.Atoi(version[:2])
		minor, _ := strconv.Atoi(version[2:])
		return name + " " + strconv.Itoa(major) + "." + strconv.Itoa(minor)
	}
	var numbers []string
	for i := range version {
		n, _ := strconv.ParseUint(version[i:i+1], 36, 8)
		if i < 3 || 0 < n && n < 10 { // the fourth is often a letter for the kind of release
			numbers = append(numbers, strconv.FormatUint(n, 10))
		}
	}
	return name + " " + strings.Join(numbers, ".")
}

// numbered returns the client and the version of an id such as M7-10-5-, or the label if it is none.
func numbered(name, version, label string) string {
	var numbers []string
	for part := range strings.SplitSeq(version, "-") {
		if len(numbers) == 3 || !number(part) {
			break
		}
		numbers = append(numbers, part)
	}
	if len(numbers) < 2 {
		return label
	}
	return name + " " + strings.Join(numbers, ".")
}

func number(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func alphanumeric(s string) bool {
	for _, c := range []byte(s) {
		if !('0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z') {
			return false
		}
	}
	return true
}
