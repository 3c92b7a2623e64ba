//! QUIC endpoints under the cluster's own mutual TLS: lanes of small frames, bulk streams, hello.
