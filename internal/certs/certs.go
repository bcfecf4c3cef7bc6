// Package certs provides mutual TLS between Conveyor's parts from three files, and follows the files
// when they are renewed, without a restart.
package certs

import (
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
	own   func(Identity) error // nil: whoever they are of at first

	mu  sync.RWMutex
	now material
}

// material is one consistent set of the three files.
type material struct {
	raw         contents
	cert        tls.Certificate
	authorities []*x509.Certificate
	ca          *x509.CertPool // of authorities
	id          Identity
	idErr       error // why there is no id
	end         end
}

// contents are the bytes of the three files.
type contents struct{ cert, key, ca string }

// Load reads the files and makes sure that they fit together and are valid now. A nil logger discards the lines about renewals and about a key that others can read. What is wrong with
// the files is an [*Error], which names the file.
func Load(files Files, log *slog.Logger) (*Store, error) { return LoadOwn(files, nil, log) }

// LoadOwn is like Load for a part that knows who it is: own returns an error for the identity of another. It is asked again about renewed files, by the
// goroutine of [Store.Watch]. Without it the identity stays the one that the files have at first.
func LoadOwn(files Files, own func(Identity) error, log *slog.Logger) (*Store, error) {
	if err := files.Validate(); err != nil {
		return nil, &Error{err}
	}
	if !files.Enabled() {
		return nil, wrong("no certificates are configured: set TLS_CERT_FILE, TLS_KEY_FILE and TLS_CA_FILE")
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Store{files: files, own: own, log: log}
	raw, err := s.read()
	if err != nil {
		return nil, err
	}
	if s.now, err = s.examine(raw, time.Now()); err != nil {
		return nil, err
	}
	if files.exposed() {
		log.Warn("others on this machine can read the private key of TLS_KEY_FILE", "file", files.Key, "do", "chmod 600 "+files.Key)
	}
	return s, nil
}

// Check asks again whether the certificate in use is that of this part, for one that learns late who it is.
func (s *Store) Check() error {
	now := s.current()
	return s.owned(&now)
}

// Reload takes over the files as they are now and reports whether they differ from those in use. On an [*Error] the certificates in use stay: other files
// are taken over when a start would take them, and parts that have the present ones can still be talked to.
func (s *Store) Reload() (changed bool, err error) {
	changed, _, err = s.reload()
	return changed, err
}

// reload also returns what it has read.
func (s *Store) reload() (changed bool, raw contents, err error) {
	if raw, err = s.read(); err != nil {
		return false, raw, err
	}
	now := s.current()
	if raw == now.raw {
		return false, raw, nil
	}
	next, err := s.examine(raw, time.Now())
	if err == nil {
		err = s.follows(&now, &next)
	}
	if err != nil {
		return false, raw, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = next
	return true, raw, nil
}

// read returns what of the files can be read, and an error about those that cannot.
func (s *Store) read() (raw contents, err error) {
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
		return raw, &Error{err}
	}
	return raw, nil
}

func (s *Store) current() material {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.now
}

// End is when the certificate in use, or the authority that vouches for it, is not valid any more.
func (s *Store) End() time.Time { return s.current().end.at }

// Warnings are sentences about what is in use and should not stay so.
func (s *Store) Warnings() []string {
	var out []string
	if s.files.exposed() {
		out = append(out, fmt.Sprintf("others on this machine can read the private key: chmod 600 %s", s.files.Key))
	}
	if e, now := s.current().end, time.Now(); e.soon(now) {
		out = append(out, e.ends(now))
	}
	return out
}

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
func (s *Store) Identity() (Identity, error) {
	now := s.current()
	return now.id, now.idErr
}
