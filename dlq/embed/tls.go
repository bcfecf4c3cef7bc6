package embed

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

var (
	errNotMutual = errors.New("the TLS configuration of the routes does not demand and verify the certificate of the server that dials")
	errNoProof   = errors.New("the other server showed no certificate")
)

// checkTLS refuses a configuration by which one side would believe the other unseen.
func checkTLS(cfg *tls.Config) error {
	if len(cfg.Certificates) == 0 && cfg.GetClientCertificate == nil {
		return errors.New("the TLS configuration of the routes has no certificate to show to the servers that are dialled")
	}
	if cfg.InsecureSkipVerify && cfg.VerifyConnection == nil {
		return errors.New("the TLS configuration of the routes does not verify the servers that are dialled")
	}
	if cfg.GetConfigForClient == nil {
		return checkMutual(cfg)
	}
	return nil // each configuration that it makes is checked when it is made
}

func checkMutual(cfg *tls.Config) error {
	switch {
	case cfg.ClientAuth == tls.RequireAndVerifyClientCert:
		return nil
	case cfg.ClientAuth == tls.RequireAnyClientCert && cfg.VerifyConnection != nil:
		return nil
	default:
		return errNotMutual
	}
}

// routeTLS returns a copy of the configuration that also asks verify about the certificate of the other side, in both directions.
func routeTLS(cfg *tls.Config, verify func(*x509.Certificate) error) *tls.Config {
	out := withVerify(cfg, verify)
	if perClient := cfg.GetConfigForClient; perClient != nil {
		out.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			one, err := perClient(hello)
			if err != nil {
				return nil, err
			}
			if one == nil {
				one = cfg
			}
			if err := checkMutual(one); err != nil {
				return nil, err
			}
			return withVerify(one, verify), nil
		}
	}
	return out
}

func withVerify(cfg *tls.Config, verify func(*x509.Certificate) error) *tls.Config {
	out := cfg.Clone()
	out.MinVersion = max(out.MinVersion, tls.VersionTLS13)
	before := cfg.VerifyConnection
	out.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return errNoProof
		}
		if before != nil {
			if err := before(state); err != nil {
				return err
			}
		}
		if verify == nil {
			return nil
		}
		if err := verify(state.PeerCertificates[0]); err != nil {
			return fmt.Errorf("certificate of %s: %w", state.PeerCertificates[0].Subject, err)
		}
		return nil
	}
	return out
}
