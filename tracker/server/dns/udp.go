package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"time"
)

const (
	// maxWaiting is how many queries may wait for a store that may block. One that comes then does not
	// ask the store: it gets the reply that the server failed, and the resolver asks again.
	maxWaiting = 512
	// maxReaders is how many goroutines read a socket. More than a few would wait for each other.
	maxReaders = 4
	// maxSlice is how many queries a goroutine answers before it lets others run.
	maxSlice = 16
	// maxReadErrors is how many reads in a row may fail. Some errors are about an earlier packet.
	maxReadErrors = 10
)

func numReaders() int { return min(runtime.GOMAXPROCS(0), maxReaders) }

// readUDP answers the queries that come to a socket. The reply leaves from the address to which the
// query came, or clients would not take it. On a socket of all addresses, control data of the packet
// have that address, if local is set.
func (s *Server) readUDP(udp *net.UDPConn, local bool) error {
	w := s.works.Get().(*work)
	bound := addrOf(udp.LocalAddr())
	control, errs := make([]byte, controlSize), 0
	for packets := 1; ; packets++ {
		if packets%maxSlice == 0 {
			// While packets wait, a read does not. Go would let this goroutine go on for 10 ms, and
			// announces would wait.
			runtime.Gosched()
		}
		var from netip.AddrPort
		var n, nc int
		var err error
		if local {
			n, nc, _, from, err = udp.ReadMsgUDPAddrPort(w.in[:], control)
		} else {
			n, from, err = udp.ReadFromUDPAddrPort(w.in[:])
		}
		if err != nil {
			if errs++; errs > maxReadErrors || errors.Is(err, net.ErrClosed) {
				return err
			}
			time.Sleep(time.Duration(errs) * 5 * time.Millisecond)
			continue
		}
		errs = 0
		at := asker{addr: from.Addr().Unmap().WithZone(""), local: bound}
		back := control[:0]
		if local {
			at.local, back = localOf(control[:nc])
		}
		if !s.Tracker.MayWait() {
			s.replyUDP(context.Background(), udp, from, at, back, w, n)
			continue
		}
		select {
		case s.waiting <- struct{}{}:
			s.active.Add(1) // Close waits for this goroutine, too
			go func(w *work, back []byte) {
				defer s.active.Done()
				ctx, cancel := context.WithTimeout(s.ctx, s.storeTime)
				defer cancel()
				s.replyUDP(ctx, udp, from, at, back, w, n)
				s.works.Put(w)
				<-s.waiting
			}(w, append([]byte(nil), back...))
			w = s.works.Get().(*work)
		default:
			ended, cancel := context.WithCancel(s.ctx)
			cancel()
			s.replyUDP(ended, udp, from, at, back, w, n)
		}
	}
}

// replyUDP answers the query in w.in[:n].
func (s *Server) replyUDP(ctx context.Context, udp *net.UDPConn, to netip.AddrPort, from asker, control []byte, w *work, n int) {
	reply := s.protect(func() []byte {
		return s.answer(ctx, w.in[:n], from, w)
	})
	switch {
	case reply == nil:
	case len(control) > 0:
		_, _, _ = udp.WriteMsgUDPAddrPort(reply, control, to)
	default:
		_, _ = udp.WriteToUDPAddrPort(reply, to)
	}
}

// addrOf is the address of a socket, or not valid if the socket has all addresses.
func addrOf(a net.Addr) netip.Addr {
	var at netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		at = a.AddrPort()
	case *net.TCPAddr:
		at = a.AddrPort()
	}
	if addr := at.Addr().Unmap().WithZone(""); addr.IsValid() && !addr.IsUnspecified() {
		return addr
	}
	return netip.Addr{}
}
