//! Links as the server does, since this program uses its runtime; see `ringpost::rt`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=-Wl,--wrap=io_uring_queue_init_params");
}
