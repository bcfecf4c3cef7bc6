// Package certs provides mutual TLS between Conveyor's parts from three files, and follows the files
// when they are renewed, without a restart.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// PollInterval is how often [Store.Watch] looks at the files. Polling works where file events do
// not: on network file systems, and for secrets that Kubernetes swaps by a link.
const PollInterval = 10 * time.Second

// Files names the three PEM files of a part. Either all are set or none.
type Files struct {
	Cert string `env:"TLS_CERT_FILE" flag:"tls-cert-file" desc:"certificate of this part (PEM); all three TLS files or none"`
	Key  string `env:"TLS_KEY_FILE" flag:"tls-key-file" desc:"private key of the certificate (PEM)"`
	CA   string `env:"TLS_CA_FILE" flag:"tls-ca-file" desc:"certificates of the authority that peers are checked against (PEM)"`
}

// Enabled reports whether certificates are configured.
func (f Files) Enabled() bool { return f != Files{} }

// Validate reports which of the three settings are missing when some are set.
func (f Files) Validate() error {
	if !f.Enabled() {
		return nil
	}
	var missing []string
	for _, s := range []struct{ name, value string }{{"TLS_CERT_FILE", f.Cert}, {"TLS_KEY_FILE", f.Key}, {"TLS_CA_FILE", f.CA}} {
		if s.value == "" {
			missing = append(missing, s.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s: not set: TLS_CERT_FILE, TLS_KEY_FILE and TLS_CA_FILE go together", strings.Join(missing, ", "))
	}
	return nil
}

// A Store holds the certificates that are in use now. It is safe for concurrent use.
type Store struct {
	files Files
	log   *slog.Logger

	mu  sync.RWMutex
	now material
}

// material is one consistent set of the three files.
type material struct {
	raw  contents
	cert tls.Certificate
	ca   *x509.CertPool
}

// contents are the bytes of the three files.
type contents struct{ cert, key, ca string }

// Load reads the files. A nil logger discards the lines about renewals. Errors name the file.
func Load(files Files, log *slog.Logger) (*Store, error) {
	if err := files.Validate(); err != nil {
		return nil, err
	}
	if !files.Enabled() {
		return nil, errors.New("no certificates are configured: set TLS_CERT_FILE, TLS_KEY_FILE and TLS_CA_FILE")
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Store{files: files, log: log}
	if _, err := s.Reload(); err != nil {
		return nil, err
	}
	return s, nil
}

// Watch takes over changed files every interval (zero means [PollInterval]) until ctx ends, and then
// returns nil. Files that cannot be used, such as a certificate whose key is not written yet, are
// reported once, and the certificates in use stay.
func (s *Store) Watch(ctx context.Context, interval time.Duration) error {
	if interval <= 0 {
		interval = PollInterval
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	reported := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		changed, err := s.Reload()
		switch {
		case err == nil && changed:
			s.log.Info("certificates renewed", "file", s.files.Cert, "until", s.leaf().NotAfter)
		case err != nil && err.Error() != reported:
			s.log.Warn("certificates not renewed, the old ones stay in use", "err", err)
		}
		reported = ""
		if err != nil {
			reported = err.Error()
		}
	}
}

// Reload takes over the files as they are now and reports whether they differ from those in use. On
// an error the certificates in use stay.
func (s *Store) Reload() (changed bool, err error) {
	var raw contents
	for _, f := range []struct {
		setting, path string
		to            *string
	}{{"TLS_CERT_FILE", s.files.Cert, &raw.cert}, {"TLS_KEY_FILE", s.files.Key, &raw.key}, {"TLS_CA_FILE", s.files.CA, &raw.ca}} {
		b, e := os.ReadFile(f.path)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", f.setting, e))
		}
		*f.to = string(b)
	}
	if err != nil {
		return false, err
	}
	if raw == s.current().raw {
		return false, nil
	}
	next := material{raw: raw, ca: x509.NewCertPool()}
	if next.cert, err = tls.X509KeyPair([]byte(raw.cert), []byte(raw.key)); err != nil {
		return false, fmt.Errorf("TLS_CERT_FILE %s with TLS_KEY_FILE %s: %w", s.files.Cert, s.files.Key, err)
	}
	if !next.ca.AppendCertsFromPEM([]byte(raw.ca)) {
		return false, fmt.Errorf("TLS_CA_FILE %s: holds no PEM certificate", s.files.CA)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = next
	return true, nil
}

func (s *Store) current() material {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.now
}

func (s *Store) leaf() *x509.Certificate { return s.current().cert.Leaf }

// ServerConfig returns a TLS configuration for servers that asks for TLS 1.3 and a certificate of the
// client signed by the CA. It follows renewals; the caller may change its copy.
func (s *Store) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Each handshake gets the files of its time.
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.serverNow(), nil },
	}
}

func (s *Store) serverNow() *tls.Config {
	now := s.current()
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{now.cert},
		ClientCAs:    now.ca,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		// A resumed session would outlive the CA that vouched for it.
		SessionTicketsDisabled: true,
	}
}

// ClientConfig returns a TLS configuration for one connection of a client: it shows the certificate
// of this part and accepts servers signed by the CA that carry serverName (empty: the name dialled).
// It is a snapshot; long-lived clients use [Store.ClientCredentials].
func (s *Store) ClientConfig(serverName string) *tls.Config {
	now := s.current()
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		ServerName:   serverName,
		Certificates: []tls.Certificate{now.cert},
		RootCAs:      now.ca,
	}
}

// ServerCredentials returns gRPC credentials for servers that follow renewals.
func (s *Store) ServerCredentials() credentials.TransportCredentials {
	return credentials.NewTLS(s.ServerConfig())
}

// Identity returns whom the certificate in use speaks for.
func (s *Store) Identity() (Identity, error) { return IdentityOf(s.leaf()) }
