// Package overload is.
package overload
