//go:build linux

package interop_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ntrack/tracker/store/valkey/valkeytest"
)

// dnsZone is the zone in which trackers answer here.
const dnsZone = "peers.example.org"

// serveDNS is serve for a tracker that also answers DNS, at port of 127.0.0.1.
func serveDNS(t *testing.T, bin string, args ...string) (addr, port string) {
	t.Helper()
	port = freePort(t)
	return serve(t, bin, append([]string{"--dns", "127.0.0.1:" + port, "--dns-zone", dnsZone}, args...)...), port
}

// announceFrom lists a peer at port of a loopback address, once.
func announceFrom(t *testing.T, tracker, address, key, port string) {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	client := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
	reply, err := client.Get("http://" + tracker + "/ntrk/" + key + "?numwant=0&port=" + port)
	must(t, err)
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		t.Fatalf("an announce from %s: status %s", address, reply.Status)
	}
}

// A dnsReply is what kdig shows of a reply: records as "NAME TTL TYPE DATA", sorted, without the dot at
// the end of a name.
type dnsReply struct {
	text                       string
	status, flags, question    string
	answer, authority, further []string
}

var (
	kdigStatus   = regexp.MustCompile(`(?m)^;; ->>HEADER<<- opcode: \w+; status: (\w+);`)
	kdigQuestion = regexp.MustCompile(`^;; \S+\.\s+(IN|CH)\s`)
	kdigFlags    = regexp.MustCompile(`(?m)^;; Flags: ([a-z ]*); `)
)

// kdig asks the name server at a port of 127.0.0.1. Without a reply it returns an error.
func kdig(t *testing.T, port string, args ...string) (r dnsReply, err error) {
	t.Helper()
	return kdigBy(t, "kdig", append([]string{"@127.0.0.1", "-p", port}, args...)...)
}

func kdigBy(t *testing.T, name string, args ...string) (r dnsReply, err error) {
	t.Helper()
	stdout, stderr, code := run(t, name, args...)
	r.text = stdout
	status, flags := kdigStatus.FindStringSubmatch(stdout), kdigFlags.FindStringSubmatch(stdout)
	if status == nil || flags == nil {
		return r, fmt.Errorf("%s %q: exit code %d\n%s%s", name, args, code, stdout, stderr)
	}
	r.status, r.flags = status[1], flags[1]
	sections := map[string]*[]string{"ANSWER": &r.answer, "AUTHORITY": &r.authority, "ADDITIONAL": &r.further}
	var section *[]string
	for line := range strings.Lines(stdout) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutSuffix(line, " SECTION:"); ok {
			section = sections[strings.TrimPrefix(name, ";; ")]
			continue
		}
		fields := strings.Fields(line)
		switch {
		case kdigQuestion.MatchString(line):
			r.question = strings.TrimSuffix(fields[1], ".") + " " + fields[3]
		case section != nil && len(fields) > 4 && !strings.HasPrefix(line, ";"):
			for i := range fields {
				fields[i] = strings.TrimSuffix(fields[i], ".")
			}
			*section = append(*section, strings.Join(slices.Delete(fields, 2, 3), " ")) // without IN
		}
	}
	for _, s := range sections {
		slices.Sort(*s)
	}
	return r, nil
}

// has says whether r has this status and exactly these answers.
func (r dnsReply) has(status string, answer ...string) error {
	slices.Sort(answer)
	if r.status != status || !slices.Equal(r.answer, answer) {
		return fmt.Errorf("%s with\n%s\nwant %s with\n%s\nin\n%s", r.status, strings.Join(r.answer, "\n"), status, strings.Join(answer, "\n"), r.text)
	}
	return nil
}

// dnsKdig asks a tracker by kdig what others ask, and what nobody should.
func dnsKdig(t *testing.T, bin string) {
	tracker, port := serveDNS(t, bin, "--listen", "[::1]:0", "--index")
	ports := []string{"4001", "4002", "4003", "4004"}
	announceFrom(t, tracker, "127.0.0.1", "web", ports[0])
	announceFrom(t, tracker, "127.0.0.2", "web", ports[1])
	announceFrom(t, tracker, "127.0.0.2", "web", ports[2])
	announceFrom(t, tracker, "127.0.0.3", "old", ports[3])
	announceFrom(t, tracker, "127.0.0.4", "a.b", ports[3])
	announceFrom(t, tracker, "127.0.0.5", "Upper", ports[3])

	const soa = "SOA"
	web := []string{"web.peers.example.org 5 A 127.0.0.1", "web.peers.example.org 5 A 127.0.0.2"}
	for _, tt := range []struct {
		args      string // the rest of kdig's command line
		status    string
		authority string // the type of the only record there; "" if there is none
		answer    []string
	}{
		{"web.peers.example.org A", "NOERROR", "", web},
		{"web.peers.example.org A +tcp", "NOERROR", "", web},
		{"web.peers.example.org A +bufsize=1232 +nsid +cookie", "NOERROR", "", web},
		{"web.peers.example.org A +edns=1", "BADVERS", "", nil},
		{"web.peers.example.org A +dnssec", "NOERROR", "", web},
		{"web.peers.example.org AAAA", "NOERROR", soa, nil},
		{"web.peers.example.org TXT", "NOERROR", soa, nil},
		{"web.peers.example.org NS", "NOERROR", soa, nil},
		{"none.peers.example.org A", "NXDOMAIN", soa, nil},
		{"none.peers.example.org SRV", "NXDOMAIN", soa, nil},
		{"_http._tcp.none.peers.example.org SRV", "NXDOMAIN", soa, nil},
		{"_tcp.web.peers.example.org SRV", "NOERROR", soa, nil},
		{"_http._tcp.web.peers.example.org A", "NOERROR", soa, nil},
		{"a.b.peers.example.org A", "NXDOMAIN", soa, nil},
		{"upper.peers.example.org A", "NXDOMAIN", soa, nil},
		{`*.peers.example.org A`, "NXDOMAIN", soa, nil},
		{"127-0-0-2.ip.peers.example.org A", "NOERROR", "", []string{"127-0-0-2.ip.peers.example.org 5 A 127.0.0.2"}},
		{"127-0-0-2.ip.peers.example.org AAAA", "NOERROR", soa, nil},
		{"127-0-0-256.ip.peers.example.org A", "NXDOMAIN", soa, nil},
		{"ip.peers.example.org A", "NOERROR", soa, nil},
		{"example.org A", "REFUSED", "", nil},
		{"org A", "REFUSED", "", nil},
		{"web.peers.example.com A", "REFUSED", "", nil},
		{"1.0.0.127.in-addr.arpa PTR", "REFUSED", "", nil},
		{"web.peers.example.org A -c CH", "REFUSED", "", nil},
		{"version.bind TXT -c CH", "REFUSED", "", nil},
		{"peers.example.org A", "NOERROR", soa, nil},
	} {
		r, err := kdig(t, port, strings.Fields(tt.args)...)
		if err == nil {
			err = r.has(tt.status, tt.answer...)
		}
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
			continue
		}
		var kinds []string
		for _, record := range r.authority {
			kinds = append(kinds, strings.Fields(record)[2])
		}
		if got := strings.Join(kinds, " "); got != tt.authority {
			t.Errorf("%s: the authority section has %q, want %q\n%s", tt.args, got, tt.authority, r.text)
		}
		if name := strings.Fields(tt.args)[0]; !strings.HasPrefix(r.question, name+" ") && tt.status != "BADVERS" {
			t.Errorf("%s: the question comes back as %q", tt.args, r.question)
		}
		if authoritative := strings.Contains(r.flags, "aa"); authoritative != slices.Contains([]string{"NOERROR", "NXDOMAIN"}, tt.status) || strings.Contains(r.flags, "ra") {
			t.Errorf("%s: the flags are %q", tt.args, r.flags)
		}
	}
	kdigServices(t, port)
	kdigZone(t, port)
	kdigLarge(t, tracker, port)
}

// kdigServices asks for services, whose targets have names of their own.
func kdigServices(t *testing.T, port string) {
	r, err := kdig(t, port, "_http._tcp.web.peers.example.org", "SRV", "+bufsize=1232")
	must(t, err)
	var want []string
	for _, at := range []string{"4001 127-0-0-1", "4002 127-0-0-2", "4003 127-0-0-2"} {
		want = append(want, "_http._tcp.web.peers.example.org 5 SRV 0 1 "+at+".ip.peers.example.org")
	}
	if err := r.has("NOERROR", want...); err != nil {
		t.Error(err)
	}
	if want := []string{"127-0-0-1.ip.peers.example.org 5 A 127.0.0.1", "127-0-0-2.ip.peers.example.org 5 A 127.0.0.2"}; !slices.Equal(r.further, want) {
		t.Errorf("the additional section has\n%q, want\n%q", r.further, want)
	}
}

// kdigZone asks for what belongs to the zone, and for what would list its keys.
func kdigZone(t *testing.T, port string) {
	for _, kind := range []string{"SOA", "NS"} {
		r, err := kdig(t, port, dnsZone, kind)
		must(t, err)
		if r.status != "NOERROR" || len(r.answer) != 1 || !strings.Contains(r.answer[0], " "+kind+" ns."+dnsZone) {
			t.Errorf("%s: %s", kind, r.text)
		}
	}
	r, err := kdig(t, port, "ns."+dnsZone, "A") // at the address that was asked
	must(t, err)
	if r.status != "NOERROR" || len(r.answer) != 1 || !strings.HasSuffix(r.answer[0], " A 127.0.0.1") {
		t.Errorf("the name server: %s", r.text)
	}
	r, err = kdig(t, port, "web."+dnsZone, "ANY")
	must(t, err)
	if r.status != "NOERROR" || len(r.answer) != 1 || !strings.Contains(r.answer[0], " HINFO ") {
		t.Errorf("ANY: %s", r.text)
	}
	for _, args := range [][]string{{"AXFR"}, {"IXFR=1"}} {
		stdout, stderr, _ := run(t, "kdig", append([]string{"@127.0.0.1", "-p", port, dnsZone}, args...)...)
		if all := stdout + stderr; !strings.Contains(all, "REFUSED") || strings.Contains(all, "web") {
			t.Errorf("%s: %s", args, all)
		}
	}
}

// kdigLarge asks for a track that no UDP packet can hold.
func kdigLarge(t *testing.T, tracker, port string) {
	const peers = 300
	announceMany(t, tracker, peers)
	for _, tt := range []struct {
		args      string
		least     int // how many addresses it must have
		most      int
		truncated bool
	}{
		{"+ignore +noedns", 1, 31, true},
		{"+ignore +bufsize=1232", 60, 80, true},
		{"+ignore +bufsize=4096", 60, 80, true}, // more than 1232 bytes would be fragments
		{"+ignore +bufsize=100", 1, 31, true},   // less than 512 means 512
		{"+bufsize=1232", peers, peers, false},  // kdig comes again by TCP
		{"+tcp", peers, peers, false},
	} {
		r, err := kdig(t, port, append([]string{"many." + dnsZone, "A"}, strings.Fields(tt.args)...)...)
		must(t, err)
		distinct := slices.Compact(slices.Clone(r.answer))
		if n := len(distinct); r.status != "NOERROR" || n < tt.least || n > tt.most || n != len(r.answer) || strings.Contains(r.flags, "tc") != tt.truncated {
			t.Errorf("%s: %d addresses, %d distinct, status %s, flags %s; want %d to %d, truncated %v", tt.args, len(r.answer), n, r.status, r.flags, tt.least, tt.most, tt.truncated)
		}
	}
	r, err := kdig(t, port, "_x._udp.many."+dnsZone, "SRV", "+tcp")
	must(t, err)
	if r.status != "NOERROR" || len(r.answer) != peers {
		t.Errorf("%d services, want %d", len(r.answer), peers)
	}
}

// announceMany lists peers under the key many, each at an address of its own.
func announceMany(t *testing.T, tracker string, peers int) {
	t.Helper()
	for i := range peers {
		announceFrom(t, tracker, fmt.Sprintf("127.1.%d.%d", i>>8, i&255), "many", "4000")
	}
}

// dnsmasqForwards asks through dnsmasq, which asks the tracker for names in its zone.
func dnsmasqForwards(t *testing.T, bin string) {
	tracker, upstream := serveDNS(t, bin)
	port := freePort(t)
	file := write(t, "dnsmasq.conf", strings.ReplaceAll(operatingBlock(t, "Delegate a zone", "dnsmasq"), "192.0.2.1#5300", "127.0.0.1#"+upstream))
	p := start(t, t.TempDir(), "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file="+file, "--pid-file=", "--user=",
		"--log-facility=-", "--port="+port, "--listen-address=127.0.0.1", "--bind-interfaces")
	throughResolver(t, bin, tracker, port, p)
}

// unboundForwards asks through unbound, which hides what it can of each query, and changes the case of
// letters at random to recognize forged replies.
func unboundForwards(t *testing.T, bin string) {
	tracker, upstream := serveDNS(t, bin)
	port := freePort(t)
	p := startUnbound(t, "127.0.0.1@"+port, strings.ReplaceAll(operatingBlock(t, "Delegate a zone", "unbound"), "192.0.2.1@5300", "127.0.0.1@"+upstream))
	throughResolver(t, bin, tracker, port, p)
}

// startUnbound runs a resolver, in this network namespace unless by names another one.
func startUnbound(t *testing.T, listen, zones string, by ...string) *program {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "unbound.conf")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `server:
	interface: %s
	access-control: 127.0.0.0/8 allow
	do-daemonize: no
	username: ""
	chroot: ""
	directory: %q
	pidfile: ""
	use-syslog: no
	num-threads: 1
	do-not-query-localhost: no
	module-config: "iterator"
	qname-minimisation: yes
	qname-minimisation-strict: yes
	use-caps-for-id: yes
remote-control:
	control-enable: no
%s`, listen, dir, zones), 0o600))
	command := append(slices.Clone(by), "unbound", "-d", "-c", file)
	return start(t, dir, command[0], command[1:]...)
}

// throughResolver asks a resolver at port of 127.0.0.1, which asks the tracker, while a peer joins and is
// killed.
func throughResolver(t *testing.T, bin, tracker, port string, resolver *program) {
	shows := func(status string, kind string, name string, answer ...string) {
		t.Helper()
		eventually(t, func() error {
			r, err := kdig(t, port, name+"."+dnsZone, kind)
			if err != nil {
				return err
			}
			for i, record := range r.answer { // the time that is left in the cache
				fields := strings.Fields(record)
				if len(fields[1]) != 1 || fields[1] > "5" {
					return fmt.Errorf("the TTL of %q is more than 5 s", record)
				}
				r.answer[i] = strings.Join(slices.Delete(fields, 1, 2), " ")
			}
			return r.has(status, answer...)
		}, resolver)
	}
	shows("NXDOMAIN", "A", "web")
	peer := start(t, t.TempDir(), bin, "announce", "--stay", "--port", "4000", tracker, "web")
	began := time.Now()
	shows("NOERROR", "A", "web", "web.peers.example.org A 127.0.0.1")
	t.Logf("a join was seen after %v", time.Since(began))
	shows("NOERROR", "AAAA", "web")
	shows("NOERROR", "SRV", "_http._tcp.web", "_http._tcp.web.peers.example.org SRV 0 1 4000 127-0-0-1.ip.peers.example.org")
	shows("NOERROR", "A", "127-0-0-1.ip", "127-0-0-1.ip.peers.example.org A 127.0.0.1")

	const peers = 300
	announceMany(t, tracker, peers)
	eventually(t, func() error { // kdig repeats the query by TCP, and so does the resolver
		r, err := kdig(t, port, "many."+dnsZone, "A", "+bufsize=1232")
		if err == nil && (r.status != "NOERROR" || len(slices.Compact(r.answer)) != peers) {
			err = fmt.Errorf("%d addresses with %s, want %d", len(r.answer), r.status, peers)
		}
		return err
	}, resolver)

	must(t, peer.cmd.Process.Signal(syscall.SIGKILL))
	began = time.Now()
	shows("NXDOMAIN", "A", "web")
	t.Logf("a death was seen after %v", time.Since(began))
}

// dnsOfSharedTable announces to one tracker, and asks another one by DNS, which shares its table.
func dnsOfSharedTable(t *testing.T, bin string) {
	table := valkeytest.Start(t, valkeytest.Options{}).URL()
	tracker := serve(t, bin, "--store", table)
	_, port := serveDNS(t, bin, "--store", table)
	peer := start(t, t.TempDir(), bin, "announce", "--stay", "--port", "4000", tracker, "web")
	shows := func(status string, answer ...string) {
		t.Helper()
		eventually(t, func() error {
			r, err := kdig(t, port, "_http._tcp.web."+dnsZone, "SRV")
			if err == nil {
				err = r.has(status, answer...)
			}
			return err
		})
	}
	shows("NOERROR", "_http._tcp.web.peers.example.org 5 SRV 0 1 4000 127-0-0-1.ip.peers.example.org")
	must(t, peer.cmd.Process.Kill())
	shows("NXDOMAIN")
}
