// Package config holds what every endpoint needs.
package config

// Config names the key.
type Config struct {
	ApiKey *string
}
