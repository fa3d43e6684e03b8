// Package redisx finds Redis servers: it reads their URLs, asks Sentinels and the nodes of a Cluster where the primaries are, and
// knows the slots of keys and what redirections say. What is sent to a server, and over which connections, is
// up to who uses it.
package redisx
