//! Files of JSON, which may be anything at all.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::ModelFilesError;

/// A JSON file of at most `most` bytes.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, most: u64) -> Result<T, ModelFilesError> {
    let failed = |error| ModelFilesError::io(path, error);
    // A pipe would be waited on.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(ModelFilesError::file(path, "is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(ModelFilesError::file(
            path,
            format!("has more than {most} bytes, too many for its name"),
        ));
    }
    serde_json::from_slice(&bytes).map_err(|error| ModelFilesError::json(path, &error))
}
