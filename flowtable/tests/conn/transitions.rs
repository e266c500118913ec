//! Each state against each kind of segment, from each side: a table to be compared with the kernel's.
