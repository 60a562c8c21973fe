//! The build script of the server, whose runtime the fuzzers use; see `ringpost::rt`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=-Wl,--wrap=io_uring_queue_init_params");
}
