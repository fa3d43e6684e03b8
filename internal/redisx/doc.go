// Package redisx finds Redis servers: it reads their URLs, asks Sentinels and the nodes of a Cluster where the primaries are, and
// knows the slots of keys and what redirections say. It watches connections, but what is sent to a server, and over which of them, is
// up to who uses it.
package redisx
