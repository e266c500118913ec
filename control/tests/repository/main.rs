//! The repository itself: links that lead somewhere, no marks of unfinished work, unsafe code where it is allowed,
//! dependencies under licences that we accept.

mod files;
mod licences;
mod links;
mod marks;
mod unsafe_code;
