//! The rows of the requirements that concern the tracker, one test or more each.
