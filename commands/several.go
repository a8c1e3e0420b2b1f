package commands

import (
	"context"
	"fmt"
	"sync"

	"ntrack/announce"
)

// An answer is what one tracker of several said.
type answer[T any] struct {
	tracker announce.Tracker
	result  T
	err     error
}

// askAll asks all trackers at once and returns what those that answered said, in the order the
// trackers are named. One answer is success: the failures of others are told. Without any, the
// first failure is the error.
func askAll[T any](ctx context.Context, o *client, s Streams, ask func(context.Context, announce.Tracker) (T, error)) ([]announce.Tracker, []T, error) {
	all := make([]answer[T], len(o.trackers))
	var wg sync.WaitGroup
	for i, t := range o.trackers {
		wg.Go(func() {
			result, err := ask(ctx, t)
			all[i] = answer[T]{t, result, err}
		})
	}
	wg.Wait()
	if ctx.Err() != nil && all[0].err != nil {
		return nil, nil, context.Cause(ctx)
	}
	var trackers []announce.Tracker
	var results []T
	var failures []error
	for _, a := range all {
		if a.err == nil {
			trackers, results = append(trackers, a.tracker), append(results, a.result)
			continue
		}
		failures = append(failures, o.named(a.tracker, a.err))
	}
	for i, err := range failures {
		if len(results) > 0 || i > 0 {
			s.note("%s", brief(err))
		}
	}
	if len(results) == 0 {
		return nil, nil, failures[0]
	}
	return trackers, results, nil
}

// named is err with the name of the tracker it is of, where that is in question.
func (o *client) named(t announce.Tracker, err error) error {
	if len(o.trackers) > 1 && is[*announce.RefusalError](err) {
		return fmt.Errorf("tracker %s: %w", t.HostPort(), err)
	}
	return err
}

// mergeAll asks all trackers about one track and merges what they say.
func (o *client) mergeAll(ctx context.Context, s Streams, want int, ask func(context.Context, announce.Tracker) (*announce.Reply, error)) ([]announce.Tracker, *announce.Reply, error) {
	trackers, replies, err := askAll(ctx, o, s, ask)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range replies[1:] {
		replies[0].Merge(r, want)
	}
	return trackers, replies[0], nil
}
