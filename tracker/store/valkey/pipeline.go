package valkey

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/redis/rueidis"

	"ntrack/tracker/store"
)

// A pipeline is commands, and what to do with their results.
type pipeline struct {
	part     *partition
	commands []rueidis.Completed
	results  []func(rueidis.RedisResult) error
}

func (q *pipeline) add(c rueidis.Completed, result func(rueidis.RedisResult) error) {
	q.commands, q.results = append(q.commands, c.ToRetryable()), append(q.results, result)
}

// run sends the commands. It returns the first error of the connection or the database. A result that is
// nil is no error, nor is a refusal because the memory is full.
func (q *pipeline) run(ctx context.Context) error {
	s := q.part.store
	for len(q.commands) > 0 {
		n := min(len(q.commands), maxPipeline)
		began := time.Now()
		bounded, cancel := context.WithTimeout(ctx, callTimeout)
		results := s.client.DoMulti(bounded, q.commands[:n]...)
		cancel()
		for i, r := range results {
			err := r.Error()
			if rueidis.IsRedisNil(err) || isFull(err) {
				err = nil
			}
			if f := q.results[i]; f != nil && err == nil {
				err = f(r)
			}
			if err != nil {
				err = unavailable(err)
				s.calls.failed(err)
				return err
			}
		}
		s.calls.succeeded(began)
		q.commands, q.results = q.commands[n:], q.results[n:]
	}
	return nil
}

// isFull reports whether the database refuses a command because its memory is full.
func isFull(err error) bool {
	var full *store.FullError
	return err != nil && errors.As(classify(err), &full)
}

// report adds the commands that send messages about peers. Those in one message are of one family.
func (q *pipeline) report(k *trackKeys, second int64, head string, peers []netip.AddrPort) {
	var members [2][]string
	for _, e := range peers {
		i := 0
		if e.Addr().Is4() {
			i = 1
		}
		members[i] = append(members[i], memberOf(e))
	}
	for _, family := range members {
		for some := range slices.Chunk(family, maxNamed) {
			for _, c := range q.part.store.appendChange(nil, k, second, head, some...) {
				q.add(c, nil)
			}
		}
	}
}

// expireAt lets a key expire at a second, or later if it would anyway.
func (q *pipeline) expireAt(key string, second int64) {
	b := q.part.store.client.B()
	q.add(b.Expireat().Key(key).Timestamp(second).Nx().Build(), nil)
	q.add(b.Expireat().Key(key).Timestamp(second).Gt().Build(), nil)
}

// scoresOf returns the scores in the reply to ZMSCORE, 0 for a peer that is not there.
func scoresOf(res rueidis.RedisResult, n int) ([]score, error) {
	values, err := res.ToArray()
	if err != nil || len(values) != n {
		return nil, errors.New("a reply of the database has the wrong length")
	}
	scores := make([]score, n)
	for i := range values {
		if f, err := values[i].AsFloat64(); err == nil {
			scores[i] = scoreOf(f)
		}
	}
	return scores, nil
}
