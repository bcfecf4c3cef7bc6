package dsl

func (s *ClusterSpec) setDefaults(string) { fill(&s.Replicas, 1) }

func (s *ServiceSpec) setDefaults(string) {}

func (s *PipelineSpec) setDefaults(string) {
	for i := range s.Sinks {
		fillString(&s.Sinks[i].Delivery, DeliveryRequired)
	}
	for i := range s.Stages {
		if s.Stages[i].Sink != "" {
			fillString(&s.Stages[i].Delivery, DeliveryRequired)
		}
		fill(&s.Stages[i].Parallelism, 1)
	}
	if s.Delivery == nil {
		s.Delivery = &Delivery{}
	}
	fillString(&s.Delivery.Ordering, OrderingKey)
	if s.DLQ == nil {
		s.DLQ = &DLQ{}
	}
	fill(&s.DLQ.MaxRetries, DefaultMaxRetries)
	fill(&s.DLQ.RetryBackoffMs, DefaultRetryBackoffMs)
	fill(&s.DLQ.MaxRetryBackoffMs, max(DefaultMaxRetryBackoffMs, *s.DLQ.RetryBackoffMs))
	fill(&s.Enabled, true)
	fillString(&s.OnRouterLoss, OnRouterLossContinue)
	fillString(&s.UpdatePolicy, PolicyDrain)
	fillString(&s.DeletionPolicy, PolicyDrain)
	fill(&s.ShareStages, false)
}

func fill[T any](p **T, def T) {
	if *p == nil {
		*p = &def
	}
}

func fillString(p *string, def string) {
	if *p == "" {
		*p = def
	}
}
