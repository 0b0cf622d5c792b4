//! Makes the host layer's foundations: bindings of Kamailio's headers, the C
//! shim with the symbols Kamailio's loader looks for, and the check that the
//! committed C header still describes our Rust entry points.
//!
//! Only feature `kamailio` needs any of it. A failure is one line that says
//! what to install or set.

#[cfg(feature = "kamailio")]
#[path = "build/bindings.rs"]
mod bindings;
#[cfg(feature = "kamailio")]
#[path = "build/header.rs"]
mod header;
// The module's own table: it names nothing else of the crate.
#[cfg(feature = "kamailio")]
#[allow(dead_code)]
#[path = "src/config/parameters.rs"]
mod parameters;
#[cfg(feature = "kamailio")]
#[path = "build/shim.rs"]
mod shim;
#[cfg(feature = "kamailio")]
#[path = "build/source.rs"]
mod source;
#[cfg(feature = "kamailio")]
#[path = "build/words.rs"]
mod words;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    #[cfg(feature = "kamailio")]
    if let Err(reason) = kamailio() {
        println!("cargo::error={}", reason.replace('\n', " "));
        std::process::exit(1);
    }
}

#[cfg(feature = "kamailio")]
fn kamailio() -> Result<(), String> {
    let root = directory("CARGO_MANIFEST_DIR")?;
    let out = directory("OUT_DIR")?;
    let kamailio = source::Kamailio::discover(&root, &out)?;
    bindings::generate(&root, &out, &kamailio)?;
    header::verify(&root)?;
    shim::compile(&root, &out, &kamailio)
}

#[cfg(feature = "kamailio")]
fn directory(variable: &str) -> Result<std::path::PathBuf, String> {
    std::env::var_os(variable)
        .map(std::path::PathBuf::from)
        .ok_or_else(|| format!("{variable} is not set: build with cargo"))
}
