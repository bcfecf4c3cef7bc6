package dsl

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/conveyor-etl/conveyor/dsl/internal/yamlsrc"
)

var (
	nameForm  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	labelForm = regexp.MustCompile(`^[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$`)
	hostForm  = regexp.MustCompile(`^[A-Za-z0-9_]([-._A-Za-z0-9]*[A-Za-z0-9_])?\.?$`)
	badInName = regexp.MustCompile(`[^a-z0-9]+`)
)

const (
	maxName            = 63
	maxAnnotationBytes = 256 << 10
)

// ValidName reports whether a name fits resources, namespaces and stages: a DNS-1123 label of at most 63 characters.
func ValidName(name string) bool { return len(name) <= maxName && nameForm.MatchString(name) }

func (d *decoder) checkMetadata(r *Resource) {
	if !d.place.has("metadata") {
		d.missing("metadata", "the manifest has no metadata.name")
		return
	}
	if !d.place.has("metadata.name") {
		if n := d.place.values["metadata"]; n.Kind == yamlsrc.Map {
			d.missing("metadata.name", "the manifest has no metadata.name")
		}
	}
	d.checkName("metadata.name", r.Metadata.Name)
	if d.place.has("metadata.namespace") {
		d.checkName("metadata.namespace", r.Metadata.Namespace)
	}
	for _, k := range sortedKeys(r.Metadata.Labels) {
		path := "metadata.labels." + k
		d.checkLabelKey(path, k)
		if v := r.Metadata.Labels[k]; v != "" && (len(v) > maxName || !labelForm.MatchString(v)) {
			d.report(CodeBadLabel, path, fmt.Sprintf("the label value %q is not allowed", clip(v))).Label = "want at most 63 letters, digits, dots, hyphens, underscores"
		}
	}
	size := 0
	for _, k := range sortedKeys(r.Metadata.Annotations) {
		d.checkLabelKey("metadata.annotations."+k, k)
		size += len(k) + len(r.Metadata.Annotations[k])
	}
	if size > maxAnnotationBytes {
		d.report(CodeBadLabel, "metadata.annotations", fmt.Sprintf("the annotations have %d bytes, at most %d are allowed", size, maxAnnotationBytes))
	}
}

func (d *decoder) checkLabelKey(path, key string) {
	prefix, name, found := strings.Cut(key, "/")
	if !found {
		prefix, name = "", key
	}
	if len(name) > maxName || !labelForm.MatchString(name) || found && (len(prefix) > 253 || !hostForm.MatchString(prefix)) {
		d.reportKey(CodeBadLabel, path, fmt.Sprintf("the key %q is not allowed", clip(key))).Label = "want at most 63 letters, digits, dots, hyphens, underscores"
	}
}

func (d *decoder) checkName(path, name string) {
	if name == "" || ValidName(name) {
		return
	}
	diag := d.report(CodeBadName, path, fmt.Sprintf("%s %q is not a DNS-1123 label", lastField(path), clip(name)))
	diag.Label = "want at most 63 lower-case letters, digits and hyphens"
	better := badInName.ReplaceAllString(strings.ToLower(name), "-")
	if len(better) > maxName {
		better = better[:maxName]
	}
	if better = strings.Trim(better, "-"); better != "" {
		diag.Suggestion = fmt.Sprintf("write %q", better)
		diag.fixWith(better)
	}
}

func clip(s string) string {
	if r := []rune(s); len(r) > 80 {
		return string(r[:79]) + "…"
	}
	return s
}

func (d *decoder) checkCluster(s *ClusterSpec) {
	if s.Replicas != nil && !slices.Contains([]int{1, 3, 5}, *s.Replicas) {
		d.report(CodeOutOfRange, "spec.replicas", fmt.Sprintf("a cluster has 1, 3 or 5 routers, not %d", *s.Replicas)).Label = "an even number adds no safety"
	}
	if strings.ContainsAny(s.Image, " \t\n") {
		d.report(CodeUnknownValue, "spec.image", fmt.Sprintf("%q is not the name of an image", clip(s.Image)))
	}
}

// oneOf checks that exactly one of the fields under path is there. A word for later in its place was reported already.
func (d *decoder) oneOf(path string, fields []string, laterFields ...string) {
	var found []string
	for _, f := range fields {
		if p := path + "." + f; d.place.has(p) || d.guessed[p] {
			found = append(found, f)
		}
	}
	refused := slices.ContainsFunc(laterFields, func(f string) bool { return d.place.has(path + "." + f) })
	switch {
	case len(found) == 1, len(found) == 0 && refused:
	case len(found) == 0:
		d.report(CodeExclusive, path, fmt.Sprintf("%s needs one of %s", path, listOf(fields)))
	default:
		diag := d.reportKey(CodeExclusive, path+"."+found[len(found)-1], fmt.Sprintf("%s has %s, which exclude each other", path, strings.Join(found, " and ")))
		diag.Suggestion = "keep one of them"
	}
}

func (d *decoder) checkService(kind string, s *ServiceSpec) {
	fields := []string{"grpc", "connector"}
	builtIns := []string{"workload"}
	if kind == KindTransform {
		fields = append(fields, "cel")
		builtIns = append(builtIns, "fields", "jq", "dedupe", "wasm")
	} else if d.place.has("spec.cel") {
		d.reportKey(CodeMisplaced, "spec.cel", fmt.Sprintf("a %s cannot be an expression", kind)).Suggestion = "use it in a Transform, or as a step of the pipeline"
	}
	if kind == KindTransform || !d.place.has("spec.cel") {
		d.oneOf("spec", fields, builtIns...)
	}
	if s.GRPC != nil && d.place.has("spec.grpc") {
		if !d.place.has("spec.grpc.endpoint") {
			d.missing("spec.grpc.endpoint", "spec.grpc has no endpoint")
		}
		d.checkEndpoint("spec.grpc.endpoint", s.GRPC.Endpoint)
	}
	if s.Connector != nil {
		if !d.place.has("spec.connector.type") {
			d.missing("spec.connector.type", "spec.connector has no type")
		}
		d.checkName("spec.connector.type", s.Connector.Type)
	}
	if s.CEL != nil {
		d.oneOf("spec.cel", []string{"filter", "map"})
	}
	if s.Config != nil && s.GRPC == nil {
		diag := d.reportKey(CodeMisplaced, "spec.config", "spec.config belongs to a grpc service")
		if s.Connector != nil {
			diag.Suggestion = "move it into spec.connector"
		}
	}
}

func (d *decoder) checkEndpoint(path, endpoint string) {
	if endpoint == "" {
		return
	}
	fault := func(why, suggestion string) {
		diag := d.report(CodeBadEndpoint, path, fmt.Sprintf("%q is not an endpoint: %s", clip(endpoint), why))
		diag.Label, diag.Suggestion = "want host:port", suggestion
	}
	if sock, ok := strings.CutPrefix(endpoint, "unix://"); ok {
		if !strings.HasPrefix(sock, "/") {
			fault("the path of a socket must be absolute", "write unix:///path")
		}
		return
	}
	if scheme, rest, ok := strings.Cut(endpoint, "://"); ok {
		fault("it has the scheme "+strconv.Quote(scheme), fmt.Sprintf("write %q", strings.TrimSuffix(rest, "/")))
		return
	}
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		fault("it has no port", fmt.Sprintf("write %q", endpoint+":50051"))
		if strings.Count(endpoint, ":") > 0 {
			d.diags[len(d.diags)-1].Suggestion = "write an IPv6 address in brackets"
		}
		return
	}
	n, err := strconv.Atoi(port)
	switch {
	case err != nil || n < 1 || n > 65535:
		fault("the port must be a number from 1 to 65535", "")
	case host == "":
		fault("it has no host", fmt.Sprintf("write %q", "localhost:"+port))
	case net.ParseIP(strings.Split(host, "%")[0]) == nil && (len(host) > 253 || !hostForm.MatchString(host)):
		fault("the host is not a name or an address", "")
	}
}
