package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/server"
	"ntrack/tracker/server/dns"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// The roles of a child.
const (
	trackerRole  = "tracker"
	constantRole = "constant"
)

// wantPeers is how many peers a reply to an announce has, and mostPeers how many a key of announces has.
const (
	wantPeers = 50
	mostPeers = 80
)

// runRole runs a child until its standard input ends. It writes its ports to standard output.
func runRole(args []string, stdin io.Reader, stdout io.Writer) error {
	f := flag.NewFlagSet("role", flag.ContinueOnError)
	small := f.Int("small", 0, "keys of 5 peers")
	large := f.Int("large", 0, "keys of 50 peers")
	a := f.Int("a", 0, "answers to A")
	srv := f.Int("srv", 0, "answers to SRV")
	_ = f.Int("none", 0, "answers to NXDOMAIN")
	profile := f.String("cpuprofile", "", "write a profile of the CPU time to `FILE`")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if *profile != "" {
		file, err := os.Create(*profile)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	debug.SetGCPercent(memory.GCPercent) // as `ntrack serve` does
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	at := ports{DNS: conn.LocalAddr().(*net.UDPAddr).Port}
	failed := make(chan error, 2)
	switch args[0] {
	case trackerRole:
		if at.HTTP, err = serveTracker(conn, *small, *large, failed); err != nil {
			return err
		}
	case constantRole:
		go func() { failed <- (&constant{a: *a, srv: *srv}).serve(conn) }()
	default:
		return errors.New("no such role: " + args[0])
	}
	if err := json.NewEncoder(stdout).Encode(at); err != nil {
		return err
	}
	go func() {
		_, err := io.Copy(io.Discard, stdin)
		failed <- err
	}()
	return <-failed
}

// A constant answers every query by the same library with the same records. It is what a name server
// cannot do without: to receive, to parse, to write records, to send.
type constant struct{ a, srv int }

func (s *constant) serve(conn *net.UDPConn) error {
	in, out := make([]byte, 4096), make([]byte, 0, 4096)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(in)
		if err != nil {
			return err
		}
		reply, err := s.reply(in[:n], out[:0])
		if err != nil {
			return err
		}
		if _, err := conn.WriteToUDPAddrPort(reply, from); err != nil {
			return err
		}
	}
}

var (
	soaName = dnsmessage.MustNewName(zone + ".")
	nsName  = dnsmessage.MustNewName("ns." + zone + ".")
	mailbox = dnsmessage.MustNewName("hostmaster." + zone + ".")
	target  = dnsmessage.MustNewName("11-100-100-101.ip." + zone + ".")
)

func (s *constant) reply(query, dst []byte) ([]byte, error) {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	header.Response, header.Authoritative = true, true
	none := q.Type == dnsmessage.TypeA && len(q.Name.String()) > 4 && q.Name.String()[:4] == "none"
	if none {
		header.RCode = dnsmessage.RCodeNameError
	}
	b := dnsmessage.NewBuilder(dst, header)
	b.EnableCompression()
	err = errors.Join(b.StartQuestions(), b.Question(q), b.StartAnswers())
	r := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 5}
	switch {
	case none:
	case q.Type == dnsmessage.TypeA:
		for i := range s.a {
			err = errors.Join(err, b.AResource(r, dnsmessage.AResource{A: [4]byte{11, 0, 0, byte(i)}}))
		}
	case q.Type == dnsmessage.TypeSRV:
		for i := range s.srv {
			err = errors.Join(err, b.SRVResource(r, dnsmessage.SRVResource{Port: uint16(4000 + i), Target: target}))
		}
	}
	if none {
		r.Name = soaName
		err = errors.Join(err, b.StartAuthorities(), b.SOAResource(r, dnsmessage.SOAResource{NS: nsName, MBox: mailbox, Serial: 1, Refresh: 60, Retry: 60, Expire: 60, MinTTL: 5}))
	}
	r = dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(".")}
	err = errors.Join(err, b.StartAdditionals(), r.SetEDNS0(udpSize, dnsmessage.RCodeSuccess, false), b.OPTResource(r, dnsmessage.OPTResource{}))
	if err != nil {
		return nil, err
	}
	return b.Finish()
}

// serveTracker serves a tracker, whose keys have peers, over DNS and HTTP.
func serveTracker(conn *net.UDPConn, small, large int, failed chan<- error) (port int, err error) {
	table := memory.New()
	for _, keys := range []struct {
		name     string
		n, peers int
	}{{"a", small, 5}, {"s", large, 50}, {"m", large, mostPeers}} {
		for k := range keys.n {
			for i := range keys.peers {
				// Each part of an address has as many digits, so each name of one is as long.
				address := netip.AddrFrom4([4]byte{11, byte(100 + k/100), byte(100 + k%100), byte(101 + i)})
				peer := wire.Peer{Endpoint: netip.AddrPortFrom(address, uint16(10_000+i))}
				_, _, err := table.Announce(context.Background(), fmt.Append(nil, keys.name, k), peer, func(store.Size) time.Duration { return time.Hour }, store.Want{}, nil)
				if err != nil {
					return 0, err
				}
			}
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	t := &tracker.Tracker{Store: table}
	s := &server.Server{Tracker: t}
	go func() { failed <- s.Serve(l) }()
	serveDNS(t, conn, failed)
	return l.Addr().(*net.TCPAddr).Port, nil
}

// serveDNS serves a tracker at conn, and at a TCP port that nobody asks.
func serveDNS(t *tracker.Tracker, conn *net.UDPConn, failed chan<- error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		failed <- err
		return
	}
	go func() { failed <- (&dns.Server{Tracker: t, Zone: zone}).Serve(conn, l) }()
}
