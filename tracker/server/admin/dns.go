package admin

import (
	"github.com/prometheus/client_golang/prometheus"

	"ntrack/tracker/server/dns"
)

// A dnsCollector has the metrics of a server of names. No label has a name.
type dnsCollector struct {
	stats func() dns.Stats

	queries, conns, panics *prometheus.Desc
}

func newDNSCollector(stats func() dns.Stats) *dnsCollector {
	return &dnsCollector{
		stats:   stats,
		queries: prometheus.NewDesc("ntrack_dns_queries_total", "Queries of DNS by result.", []string{"result"}, nil),
		conns:   prometheus.NewDesc("ntrack_dns_connections", "Open TCP connections of DNS.", nil, nil),
		panics:  prometheus.NewDesc("ntrack_dns_panics_total", "Panics. Each left one query without a reply, and is in the log.", nil, nil),
	}
}

// Describe implements [prometheus.Collector].
func (c *dnsCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements [prometheus.Collector].
func (c *dnsCollector) Collect(ch chan<- prometheus.Metric) {
	st := c.stats()
	for result, n := range st.Queries {
		ch <- prometheus.MustNewConstMetric(c.queries, prometheus.CounterValue, float64(n), result)
	}
	ch <- prometheus.MustNewConstMetric(c.conns, prometheus.GaugeValue, float64(st.Conns))
	ch <- prometheus.MustNewConstMetric(c.panics, prometheus.CounterValue, float64(st.Panics))
}
