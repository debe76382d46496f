//! Which way to use a GPU: whole, as time-sliced vGPU, as vGPU on MIG, or over the network. Pure: a question, tables, and
//! an answer in which every no has its reason and every figure its source.

mod fragment;
mod judge;
mod kind;
mod question;

pub use judge::{Advice, Way, advise};
pub use kind::Kind;
pub use question::{Guest, License, Need, Question, Workload, memory, need, percent, release};
