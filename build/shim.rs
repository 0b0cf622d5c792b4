//! Compiles the C shim and links it so that its symbols are exported.

use std::path::{Path, PathBuf};

use crate::parameters::{PARAMETERS, ParameterDefault};
use crate::source::Kamailio;

/// Compiles `kamailio-shim/shim.c` into the module.
pub fn compile(root: &Path, out: &Path, kamailio: &Kamailio) -> Result<(), String> {
    let folder = root.join("kamailio-shim");
    println!("cargo:rerun-if-changed={}", folder.display());
    list_parameters(root, out)?;
    let mut build = cc::Build::new();
    build
        .file(folder.join("shim.c"))
        .include(&folder)
        .include(out)
        .include(root.join("include"))
        .cargo_metadata(false)
        // Callbacks have the parameters that their callers pass.
        .flag("-Wno-unused-parameter")
        .flag("-Wno-cast-function-type")
        .flag("-Wno-missing-field-initializers")
        // Only what the loader looks up is exported; see shim.c.
        .flag("-fvisibility=hidden");
    for argument in kamailio.compiler_arguments() {
        build.flag(argument);
    }
    build
        .try_compile("kamshim")
        .map_err(|_| "kamailio-shim/shim.c does not compile: see the compiler's messages, or apt-get install gcc")?;
    println!("cargo:rustc-link-search=native={}", out.display());
    // Without +export-symbols the linker drops data that nothing in Rust uses.
    println!("cargo:rustc-link-lib=static:+whole-archive,+export-symbols=kamshim");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,presence.so");
    if kamailio.major < 6 {
        link_srdb1()?;
    }
    Ok(())
}

/// Writes `parameters.h`: what the module calls PARAMETERS is what Kamailio can set.
fn list_parameters(root: &Path, out: &Path) -> Result<(), String> {
    println!("cargo:rerun-if-changed={}", root.join("src/config/parameters.rs").display());
    let rows = PARAMETERS.iter().map(|parameter| match parameter.default {
        ParameterDefault::Int(_) => format!(" \\\n\tNUMBER({})", parameter.name),
        ParameterDefault::Text(_) => format!(" \\\n\tTEXT({})", parameter.name),
    });
    let list = format!("#define PARAMETERS(NUMBER, TEXT){}\n", rows.collect::<String>());
    std::fs::write(out.join("parameters.h"), list).map_err(|error| format!("parameters.h: {error}"))
}

/// The database API is a library of its own up to 5.8 and part of the
/// executable from 6.0, where asking for the library would fail to load.
fn link_srdb1() -> Result<(), String> {
    println!("cargo:rerun-if-env-changed=KAMAILIO_LIB_DIR");
    let folders: Vec<PathBuf> = match std::env::var_os("KAMAILIO_LIB_DIR") {
        Some(given) => vec![given.into()],
        None => {
            ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"]
                .iter()
                .map(|folder| Path::new(folder).join("kamailio"))
                .collect()
        }
    };
    let folder = folders.iter().find(|folder| folder.join("libsrdb1.so.1").exists()).ok_or(
        "no libsrdb1.so.1: apt-get install kamailio, or set KAMAILIO_LIB_DIR to its folder",
    )?;
    for argument in [
        "-Wl,--no-as-needed".to_owned(),
        format!("-L{}", folder.display()),
        "-l:libsrdb1.so.1".to_owned(),
        format!("-Wl,-rpath,{}", folder.display()),
    ] {
        println!("cargo:rustc-cdylib-link-arg={argument}");
    }
    Ok(())
}
