//! The repository itself: links that lead somewhere, no marks of unfinished work, unsafe code where it is allowed,
//! dependencies under licences that we accept, a package whose files are there.

mod files;
mod licences;
mod links;
mod marks;
mod package;
mod unsafe_code;
