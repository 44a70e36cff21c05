//! Finds the system's MPI and has its compiler translate `src/calls.c`.

use std::process::exit;

/// Says what lacks and how to get it.
fn give_up(what: &str, reasons: &[String]) -> ! {
    eprintln!("candle_course's feature `mpi` needs an MPI with its headers on this machine, but {what}.");
    eprintln!("Install one:");
    eprintln!("  Debian, Ubuntu:  apt install openmpi-bin libopenmpi-dev");
    eprintln!("  Fedora:          dnf install openmpi-devel, then `module load mpi`");
    eprintln!("  macOS:           brew install open-mpi");
    eprintln!("  a cluster:       module load openmpi (`module avail mpi` lists the names there)");
    eprintln!("or name one that is there: MPICC=/path/to/mpicc. Without several processes, leave the feature out.");
    eprintln!("What was tried:");
    reasons.iter().for_each(|reason| eprintln!("  {}", reason.trim().replace('\n', "\n  ")));
    exit(1)
}

fn main() {
    println!("cargo:rerun-if-changed=src/calls.c");
    for name in ["MPICC", "MPI_PKG_CONFIG", "CRAY_MPICH_DIR", "PKG_CONFIG_PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    if std::env::var_os("DOCS_RS").is_some() {
        return; // there is no MPI where documentation is built, and nothing is linked
    }
    let mpi = build_probe_mpi::probe().unwrap_or_else(|errors| {
        give_up("none was found", &errors.iter().map(ToString::to_string).collect::<Vec<_>>())
    });
    let mut build = cc::Build::new();
    build.file("src/calls.c").warnings(true);
    match &mpi.mpicc {
        Some(mpicc) => build.compiler(mpicc),
        None => build.includes(&mpi.include_paths),
    };
    if let Err(error) = build.try_compile("candle_course_mpi_calls") {
        give_up("no program could be compiled with the one found", &[error.to_string()]);
    }
    for folder in &mpi.lib_paths {
        println!("cargo:rustc-link-search=native={}", folder.display());
    }
    for library in &mpi.libs {
        println!("cargo:rustc-link-lib={library}");
    }
}
