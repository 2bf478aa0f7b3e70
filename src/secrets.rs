//! Files with secrets in them: read whole, bounded, and with a look at who else may read them. Knows no format. Used
//! by whoever reads passwords, keys and tokens.

use crate::limits::SECRET_FILE_BYTES;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The text of a file of at most [`SECRET_FILE_BYTES`].
pub fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(SECRET_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > SECRET_FILE_BYTES {
        let message = format!("it is larger than {SECRET_FILE_BYTES} bytes");
        return Err(io::Error::new(ErrorKind::InvalidData, message));
    }
    Ok(text)
}

/// True where users other than the file's owner may read or write it. As with libpq, root may give it to a group.
pub fn is_exposed(path: &Path) -> io::Result<bool> {
    let metadata = fs::metadata(path)?;
    let allowed = if metadata.uid() == 0 { 0o740 } else { 0o700 };
    Ok(metadata.mode() & 0o777 & !allowed != 0)
}
