//! `include/presence_ffi.h`: the C view of the Rust functions that the shim
//! calls, generated from the file that defines them. It is committed, so that
//! a change of the interface shows in review; a build with an old one fails.

use std::path::Path;

/// Compares the committed header with what the source says; with
/// PRESENCE_UPDATE_HEADER=1 it is rewritten.
pub fn verify(root: &Path) -> Result<(), String> {
    let source = root.join("src/host/exports.rs");
    let header = root.join("include/presence_ffi.h");
    let config = root.join("cbindgen.toml");
    println!("cargo:rerun-if-env-changed=PRESENCE_UPDATE_HEADER");
    for file in [&source, &header, &config] {
        println!("cargo:rerun-if-changed={}", file.display());
    }
    let config = cbindgen::Config::from_file(&config)?;
    let bindings = cbindgen::Builder::new()
        .with_src(&source)
        .with_config(config)
        .generate()
        .map_err(|e| format!("cbindgen cannot read src/host/exports.rs: {e}"))?;
    let mut wanted = Vec::new();
    bindings.write(&mut wanted);
    if std::fs::read(&header).is_ok_and(|committed| committed == wanted) {
        return Ok(());
    }
    if std::env::var_os("PRESENCE_UPDATE_HEADER").is_some() {
        return std::fs::write(&header, wanted).map_err(|e| format!("{}: {e}", header.display()));
    }
    Err("include/presence_ffi.h is older than src/host/exports.rs: run scripts/build --update-header"
        .into())
}
