//! One integration-test binary; a module per subject.

mod layering;
