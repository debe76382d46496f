//! Generated from `pool.proto`, which carries the documentation.
#![allow(missing_docs, clippy::all, clippy::allow_attributes_without_reason, reason = "generated code")]

tonic::include_proto!("vsgpu.pool.v1");
