//! Where the kernel source comes from.
