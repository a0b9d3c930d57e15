//! `twinlun config import`: prints what another target's disk is called, as a configuration of ours.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::args::{ImportArgs, ImportFrom};
use super::{print, print_json};
use crate::daemon::api::SCHEMA;
use crate::daemon::failure::Failure;
use crate::daemon::import::{self, Choice};

pub(super) fn run(args: &ImportArgs, json: bool) -> Result<(), Failure> {
    let file = import::read(&args.file)?;
    let choice = Choice {
        target: args.target.clone(),
        portal_group: args.portal_group,
        lun: args.lun,
        secrets: args.secrets.clone(),
    };
    let import = match args.from {
        ImportFrom::Lio => import::import_lio(&file, &choice)?,
    };
    let mut kept = Vec::new();
    if let Some(directory) = &args.secrets {
        fs::create_dir_all(directory).map_err(|error| cannot(directory, &error))?;
        for (path, secret) in &import.secrets {
            if !write_secret(path, secret.as_bytes()).map_err(|error| cannot(path, &error))? {
                kept.push(path.display().to_string());
            }
        }
    }
    if json {
        print_json(&serde_json::json!({
            "schema": SCHEMA,
            "document": import.document,
            "remarks": import.remarks,
            "secret_files": import.secrets.iter().map(|(path, _)| path.display().to_string()).collect::<Vec<_>>(),
            "kept": kept,
        }));
        return Ok(());
    }
    print(import.document.trim_end());
    if args.secrets.is_none() && !import.secrets.is_empty() {
        print("# The files with secrets are not written; --secrets DIRECTORY does it.");
    }
    for path in kept {
        print(&format!("# {path} was there already and is kept."));
    }
    Ok(())
}

fn cannot(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(
        format!("cannot write {}: {error}", path.display()),
        "name another directory with --secrets",
    )
}

/// Writes a new file that nobody else may read. Returns false, and changes nothing, if there is one of this name.
fn write_secret(path: &Path, secret: &[u8]) -> std::io::Result<bool> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => file.write_all(secret).and_then(|()| file.sync_all()).map(|()| true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}
