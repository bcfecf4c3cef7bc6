// Package linkv1 is the protocol by which sidecars hand records to each other.
package linkv1
