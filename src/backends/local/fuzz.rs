//! Fuzz targets: parsing what is read in a shared directory.

use super::file_names::{FileName, StateFile};
use super::records::{self, PermitRecord};
use super::{directory_names, semaphore_files};
use crate::permits::{Name, Record};

pub(crate) fn fuzz(bytes: &[u8]) {
    let state = StateFile::from_text(bytes);
    if state.to_text().len() == bytes.len() {
        assert_eq!(StateFile::from_text(state.to_text().as_bytes()), state);
    }
    if let Some(entry) = FileName::parse(bytes) {
        assert_eq!(entry.file().as_bytes(), bytes);
    }
    if let Some(kept) = PermitRecord::from_text(bytes) {
        let _ = (kept.end(), kept.renewed(), kept.is_in_force());
    }
    let _ = records::places(bytes);
    let record: Option<Record> = serde_json::from_slice(bytes).ok();
    if let Some(record) = record {
        let text = serde_json::to_string(&record).expect("plain data");
        let again: Record = serde_json::from_str(&text).expect("what was written");
        assert!(again.permit == record.permit && record.who.label.len() < 2_000);
        let _ = humantime::format_rfc3339_millis(record.since).to_string();
    }
    let granted: Option<semaphore_files::GrantInfo> = serde_json::from_slice(bytes).ok();
    let _ = granted.map(|granted| granted.moment());
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.contains(['/', '\0'])
        && let Some(name) = directory_names::from_file(rustix::fs::CWD, text)
    {
        assert_eq!(directory_names::to_file(&name), text);
    }
}

/// A name is one file in its directory, and different names are different files.
pub(crate) fn fuzz_name(name: &Name) {
    let file = directory_names::to_file(name);
    assert!(file.len() <= 255 && !file.contains(['/', '\0']) && !file.starts_with('.'), "{file}");
    if !directory_names::is_shortened(&file) {
        assert_eq!(directory_names::from_file(rustix::fs::CWD, &file).as_ref(), Some(name));
    }
}
