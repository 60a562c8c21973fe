//! Bodies of DATA, split at random.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ringpost_fuzz::dot(data));
