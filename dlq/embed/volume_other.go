//go:build !(linux || darwin || freebsd)

package embed

// DefaultStoreBytes is the default of Config.MaxStoreBytes where the size of a volume cannot be asked.
func DefaultStoreBytes(string) int64 { return DefaultMaxStoreBytes }
