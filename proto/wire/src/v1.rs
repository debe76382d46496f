//! Generated from `agent.proto`, which carries the documentation.
#![allow(missing_docs, clippy::all, clippy::allow_attributes_without_reason, reason = "generated code")]

tonic::include_proto!("vsgpu.agent.v1");
