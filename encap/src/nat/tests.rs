//! The judge is a builder that knows nothing of differences: a packet built with one tuple and translated to another must be, byte
//! by byte, the packet built with the other.

mod build;
mod errors4;
mod errors6;
mod fragments;
mod packets4;
mod packets6;
