//go:build !(linux || darwin || freebsd)

package embed

// defaultStore is the default limit where the size of a volume cannot be asked.
func defaultStore(string) int64 { return DefaultMaxStoreBytes }
