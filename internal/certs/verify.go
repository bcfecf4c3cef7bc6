package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"
)

const (
	// soon is the longest time before the end at which it is announced.
	soon = 14 * 24 * time.Hour
	// soonPart is which part of a life is its end, for certificates that live shortly.
	soonPart = 10

	// othersRead is the part of a mode that lets others than the owner read.
	othersRead = 0o044
)

// An Error says what is wrong with which of the files. To start with such files is to start with a wrong configuration.
type Error struct{ err error }

func (e *Error) Error() string { return e.err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.err }

func wrong(format string, args ...any) error { return &Error{fmt.Errorf(format, args...)} }

// end is when the certificate, or an authority that it needs, is not valid any more.
type end struct {
	at   time.Time
	life time.Duration
	// file is the one to renew.
	file string
}

// soon reports whether it is time to renew.
func (e end) soon(now time.Time) bool { return e.at.Sub(now) <= min(soon, e.life/soonPart) }

// examine makes of the bytes of the files what connections use, once it is certain that others can believe it.
func (s *Store) examine(raw contents, now time.Time) (material, error) {
	m := material{raw: raw, ca: x509.NewCertPool()}
	var err error
	if m.cert, err = tls.X509KeyPair([]byte(raw.cert), []byte(raw.key)); err != nil {
		return m, wrong("TLS_CERT_FILE %s with TLS_KEY_FILE %s: %w", s.files.Cert, s.files.Key, err)
	}
	if m.authorities, err = parseAuthorities([]byte(raw.ca)); err != nil {
		return m, wrong("TLS_CA_FILE %s: %w", s.files.CA, err)
	}
	for _, c := range m.authorities {
		m.ca.AddCert(c)
	}
	leaf := m.cert.Leaf
	m.id, m.idErr = IdentityOf(leaf)
	switch {
	case now.Before(leaf.NotBefore):
		return m, wrong("TLS_CERT_FILE %s: the certificate of %s is not valid before %s: look whether the clock of this machine is right",
			s.files.Cert, m.whose(), stamp(leaf.NotBefore))
	case now.After(leaf.NotAfter):
		return m, wrong("TLS_CERT_FILE %s: the certificate of %s ended on %s: make it anew with `conveyor cluster init DIR --renew`",
			s.files.Cert, m.whose(), stamp(leaf.NotAfter))
	}
	if err := s.verify(&m, now); err != nil {
		return m, err
	}
	return m, s.owned(&m)
}

// verify finds the chain from the certificate to an authority, and when it ends.
func (s *Store) verify(m *material, now time.Time) error {
	// Every part dials; routers and sidecars are dialled too.
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if m.id.Role == RoleRouter || m.id.Role == RoleSidecar {
		usages = append(usages, x509.ExtKeyUsageServerAuth)
	}
	between := x509.NewCertPool()
	for _, der := range m.cert.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return wrong("TLS_CERT_FILE %s: a certificate after the first: %w", s.files.Cert, err)
		}
		between.AddCert(c)
	}
	for _, usage := range usages {
		chains, err := m.cert.Leaf.Verify(x509.VerifyOptions{Roots: m.ca, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
		if err != nil {
			return wrong("TLS_CERT_FILE %s: no authority in TLS_CA_FILE %s vouches for the certificate of %s: %w: take all three files from one directory",
				s.files.Cert, s.files.CA, m.whose(), err)
		}
		m.end = s.endOf(chains)
	}
	return nil
}

// endOf is the end of the chain that holds longest: the first end in it.
func (s *Store) endOf(chains [][]*x509.Certificate) end {
	var last end
	for _, chain := range chains {
		first := end{at: chain[0].NotAfter, life: chain[0].NotAfter.Sub(chain[0].NotBefore), file: s.files.Cert}
		for _, c := range chain[1:] {
			if c.NotAfter.Before(first.at) {
				first = end{at: c.NotAfter, life: c.NotAfter.Sub(c.NotBefore), file: s.files.CA}
			}
		}
		if first.at.After(last.at) {
			last = first
		}
	}
	return last
}

// owned refuses the certificate of another part: whoever is talked to would take this one for that.
func (s *Store) owned(m *material) error {
	if s.own == nil {
		return nil
	}
	err := m.idErr
	if err == nil {
		err = s.own(m.id)
	}
	if err != nil {
		return wrong("TLS_CERT_FILE %s: %w", s.files.Cert, err)
	}
	return nil
}

// follows refuses what a part that runs cannot change to. Those that it talks to would know nothing of it from then on, and nothing of them would be known here.
func (s *Store) follows(now, next *material) error {
	if s.own == nil && next.whose() != now.whose() {
		return wrong("TLS_CERT_FILE %s: it is the certificate of %s, and this is %s", s.files.Cert, next.whose(), now.whose())
	}
	for _, c := range next.authorities {
		if slices.ContainsFunc(now.authorities, func(o *x509.Certificate) bool { return sameAuthority(o, c) }) {
			return nil
		}
	}
	return wrong("TLS_CA_FILE %s: none of the authorities in use is in it, so these are the files of another cluster: to change the authority, "+
		"first put the certificates of the old and of the new one into the file, everywhere", s.files.CA)
}

// sameAuthority compares name and key: a certificate of an authority is renewed too.
func sameAuthority(a, b *x509.Certificate) bool {
	return string(a.RawSubject) == string(b.RawSubject) && string(a.RawSubjectPublicKeyInfo) == string(b.RawSubjectPublicKeyInfo)
}

// whose is who the certificate is of, for people.
func (m *material) whose() string {
	if m.idErr != nil {
		return fmt.Sprintf("%q", m.cert.Leaf.Subject.CommonName)
	}
	return m.id.String()
}

// parseAuthorities reads all certificates of a file: while an authority is replaced there are two.
func parseAuthorities(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d in it: %w", len(out)+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("holds no PEM certificate")
	}
	return out, nil
}

// exposed reports whether others can read the key.
func (f Files) exposed() bool {
	info, err := os.Stat(f.Key)
	return err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&othersRead != 0
}

// ends is a sentence about files that are to be renewed.
func (e end) ends(now time.Time) string {
	if !now.Before(e.at) {
		return fmt.Sprintf("%s ended on %s, and others refuse it: renew it now", e.file, stamp(e.at))
	}
	return fmt.Sprintf("%s ends on %s: renew it before", e.file, stamp(e.at))
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }
