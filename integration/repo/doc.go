// Package repo holds the rules about the repository itself, as tests: who may import whom, what is documented, and what a module carries.
package repo
