package valkey

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/redis/rueidis"

	"ntrack/tracker/store"
)

// An openError says why a database cannot be used, and what to do.
type openError struct {
	servers string // where it is, without a password
	text    string
	passes  bool // it may be usable later
}

func (e *openError) Error() string { return e.servers + ": " + e.text }

// Is says that a call may succeed later if that is so.
func (e *openError) Is(target error) bool { return e.passes && target == store.ErrUnavailable }

// explain makes an openError of an error of Open. Text of the server is in it only if it can have no
// password, as far as anybody can know.
func explain(c Config, err error) error {
	if _, done := errors.AsType[*openError](err); done || err == nil {
		return err
	}
	text, passes := reasonOf(c, err)
	return &openError{Shown(c.URL), text, passes}
}

// reasonOf says what is wrong, what to do, and whether it may pass.
func reasonOf(c Config, err error) (text string, passes bool) {
	if r, ok := errors.AsType[*rueidis.RedisError](err); ok {
		if r.IsNil() {
			return "the sentinels know no master of that name; check master_set", false
		}
		return reasonOfReply(c, r.Error())
	}
	opErr, _ := errors.AsType[*net.OpError](err)
	netErr, _ := errors.AsType[net.Error](err)
	switch text := err.Error(); {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused; is it running, and is the port right?", true
	case is[*net.DNSError](err):
		return "no such host; check the name, and the name server", true
	case is[tls.RecordHeaderError](err), strings.Contains(text, "first record does not look like a TLS handshake"):
		return "it does not speak TLS; use valkey:// or its port for TLS", false
	case is[*tls.CertificateVerificationError](err), is[x509.UnknownAuthorityError](err), is[x509.HostnameError](err):
		return "its certificate is not valid here; name the file of its authority by $SSL_CERT_FILE, or add skip_verify=true", false
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), netErr != nil && netErr.Timeout():
		if tls := strings.HasPrefix(c.URL, "valkeys:") || strings.HasPrefix(c.URL, "rediss:"); tls {
			return "no answer in time; check the address, and whether it speaks TLS", true
		}
		return "no answer in time; check the address, and whether a firewall is in between", true
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "it closes the connection; if it wants TLS, use valkeys://", true
	case errors.Is(err, rueidis.ErrNoSlot):
		return "some slots of the cluster have no server; wait for a fail-over, or repair the cluster", true
	case opErr != nil:
		return strings.TrimPrefix(opErr.Err.Error(), "connect: ") + "; check the address", true
	case strings.Contains(text, "unknown message type"), strings.Contains(text, "unexpected"):
		return "it is not Valkey or Redis; check the port", false
	}
	return "it cannot be used: " + err.Error(), true
}

func is[E error](err error) bool { _, ok := errors.AsType[E](err); return ok }

var quoted = regexp.MustCompile(`'([^']{1,40})'`)

// reasonOfReply is reasonOf for an error that the server sent.
func reasonOfReply(c Config, reply string) (text string, passes bool) {
	code, _, _ := strings.Cut(reply, " ")
	named := "" // the command or key that the reply names
	if m := quoted.FindStringSubmatch(reply); m != nil {
		named = strings.ToUpper(strings.ReplaceAll(m[1], "|", " "))
	}
	switch code {
	case "WRONGPASS":
		return "the user or the password is wrong", false
	case "NOAUTH":
		return "it needs a user and a password, as in valkeys://USER:PASSWORD@HOST:PORT", false
	case "NOPERM":
		switch {
		case strings.Contains(reply, "channel"):
			return fmt.Sprintf("the user may not use channels that begin with %s:; docs/operating.md has the rights that it needs", c.Prefix), false
		case strings.Contains(reply, "keys"):
			return fmt.Sprintf("the user may not use keys that begin with %s:; docs/operating.md has the rights that it needs", c.Prefix), false
		}
		return fmt.Sprintf("the user may not run %s; docs/operating.md has the rights that it needs", named), false
	case "READONLY":
		return "it is a replica, which is read-only; name its master, or its sentinels and &master_set=NAME", false
	case "OOM":
		return "it is full; raise its maxmemory", true
	case "LOADING":
		return "it is loading its data", true
	case "MASTERDOWN":
		return "it is a replica, and its master is away; name the master", true
	case "CLUSTERDOWN":
		return "some slots of the cluster have no server; wait for a fail-over, or repair the cluster", true
	case "NOREPLICAS":
		return "it wants more replicas before it accepts writes (min-replicas-to-write)", true
	case "MISCONF":
		return "it accepts no writes because it cannot write to its disk; switch persistence off: save \"\"", true
	case "DENIED":
		return "it serves only its own machine (protected-mode); give it a user with a password", false
	}
	switch {
	case strings.Contains(reply, "unknown command") && named == "TIME":
		return "it is a sentinel; add master_set=NAME, the name by which it knows the database", false
	case strings.Contains(reply, "unknown command") && named == "SENTINEL":
		return "it is no sentinel; leave out master_set, or name the port of the sentinels, often 26379", false
	case strings.Contains(reply, "cluster support disabled"):
		return "it is no cluster, for which addr is; leave out addr, or add master_set=NAME if these are sentinels", false
	case strings.Contains(reply, "unknown command"):
		return fmt.Sprintf("it has no command %s; Valkey 7.2 or Redis 7.0 has all that are needed", named), false
	case strings.Contains(reply, "SELECT is not allowed in cluster mode"):
		return "a cluster has only database 0; use --store-prefix to keep two tables apart", false
	case strings.Contains(reply, "DB index is out of range"):
		return "it has no database of that number", false
	case strings.Contains(reply, "No such master"):
		return "the sentinels know no master of that name; check master_set", false
	case strings.Contains(reply, "max number of clients"):
		return "it has no room for another connection; raise its maxclients", true
	}
	return "it refuses: " + reply, false
}

// check tries every command that the store uses on keys of its own, which nobody reads. So it finds out
// what the server lacks, and what its user may not do.
func (s *Store) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	set, text := s.prefix+":{0}? set", s.prefix+":{0}? text"
	b := s.client.B
	soon := time.Now().Add(time.Minute)
	commands := []rueidis.Completed{
		b().Zadd().Key(set).Gt().Ch().ScoreMember().ScoreMember(1, "a").Build(),
		b().Zrange().Key(set).Min("-inf").Max("(2").Byscore().Limit(0, 1).Build(),
		b().Zcount().Key(set).Min("-inf").Max("+inf").Build(),
		b().Zmscore().Key(set).Member("a").Build(),
		b().Zscore().Key(set).Member("a").Build(),
		b().Zcard().Key(set).Build(),
		b().Expireat().Key(set).Timestamp(soon.Unix()).Nx().Build(),
		b().Zremrangebyscore().Key(set).Min("-inf").Max("0").Build(),
		b().Expiretime().Key(set).Build(),
		b().Exists().Key(set).Build(),
		b().Zrem().Key(set).Member("a").Build(),
		b().Set().Key(text).Value("1").Nx().Get().ExSeconds(60).Build(),
		b().Incr().Key(text).Build(),
		b().Unlink().Key(set, text).Build(),
		b().Spublish().Channel(s.prefix + ":c{0}?").Message("").Build(),
		b().Eval().Script("return 1").Numkeys(1).Key(set).Build(),
		b().Hset().Key(s.prefix+":i").FieldValue().FieldValue("?", "").Build(),
		b().Hgetall().Key(s.prefix + ":i").Build(),
		b().Hdel().Key(s.prefix + ":i").Field("?").Build(),
	}
	full := false
	for _, r := range s.client.DoMulti(ctx, commands...) {
		switch err := r.Error(); {
		case err == nil, rueidis.IsRedisNil(err):
		case strings.HasPrefix(err.Error(), "OOM "):
			full = true
		case strings.Contains(err.Error(), "unknown command"):
			text, _ := reasonOf(Config{}, err)
			return &openError{Shown(s.url), s.version(ctx) + strings.TrimPrefix(text, "it"), false}
		default:
			return err
		}
	}
	if err := s.checkNodes(ctx); err != nil {
		return err
	}
	if full {
		s.log("it is full; raise its maxmemory, or announces get status 503")
	}
	if err := s.checkPartitions(ctx); err != nil {
		return err
	}
	s.checkPolicy(ctx)
	return nil
}

// checkNodes tries the commands that the store sends to one server by itself. Any server answers whether it
// has them, and whether the user may run them.
func (s *Store) checkNodes(ctx context.Context) error {
	for _, node := range s.client.Nodes() {
		err := s.checkNode(ctx, node)
		if err == nil {
			return nil
		}
		if reply, ok := rueidis.IsRedisErr(err); ok && (strings.HasPrefix(reply.Error(), "NOPERM") || strings.Contains(reply.Error(), "unknown command")) {
			return err
		}
		// This one is away, or the partition is elsewhere. Another one may answer.
	}
	return nil
}

func (s *Store) checkNode(ctx context.Context, node rueidis.Client) error {
	if err := node.Do(ctx, node.B().Scan().Cursor(0).Match(s.prefix+":?").Count(1).Build()).Error(); err != nil {
		return err
	}
	conn, _ := node.Dedicate()
	defer conn.Close()
	conn.SetPubSubHooks(rueidis.PubSubHooks{OnMessage: func(rueidis.PubSubMessage) {}})
	channel := s.prefix + ":c{0}?"
	if err := conn.Do(ctx, conn.B().Ssubscribe().Channel(channel).Build()).Error(); err != nil {
		return err
	}
	return conn.Do(ctx, conn.B().Sunsubscribe().Channel(channel).Build()).Error()
}

// version is the name and the version of the server, such as "redis 7.0.15".
func (s *Store) version(ctx context.Context) string {
	hello, err := s.client.Do(ctx, s.client.B().Hello().Protover(3).Build()).AsStrMap()
	if err != nil || hello["version"] == "" {
		return "it"
	}
	return hello["server"] + " " + hello["version"]
}

// checkPartitions returns an error if a part of the table has no server.
func (s *Store) checkPartitions(ctx context.Context) error {
	commands := make([]rueidis.Completed, partitions)
	for p := range commands {
		commands[p] = s.client.B().Get().Key(fmt.Sprintf("%s:{%d}@", s.prefix, p)).Build()
	}
	for _, r := range s.client.DoMulti(ctx, commands...) {
		if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) {
			return err
		}
	}
	return nil
}

// checkPolicy warns if the server drops peers when it is full. A user may lack the right to ask.
func (s *Store) checkPolicy(ctx context.Context) {
	for _, node := range s.client.Nodes() {
		info, err := node.Do(ctx, node.B().Info().Section("memory").Build()).ToString()
		if err != nil {
			continue
		}
		m := regexp.MustCompile(`(?m)^maxmemory_policy:([a-z-]+)`).FindStringSubmatch(info)
		if m != nil && m[1] != "noeviction" {
			s.log("its maxmemory-policy is " + m[1] + ", so it drops listed peers when it is full; set noeviction")
			return
		}
	}
}

// maxSilence is how long a database may give no answer before it counts as away. The Store asks at least
// every three seconds.
const maxSilence = 4500 * time.Millisecond

// Up says whether the database answers.
func (s Stats) Up() bool { return s.SinceAnswer <= maxSilence }
