//! What a command's process executes: the candidate files, the arguments and the environment, as
//! the kernel takes them.

use std::borrow::Cow;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::sys::environment;

/// What a process will execute, prepared for the kernel before the process exists.
#[derive(Debug)]
pub(crate) struct Executable {
    /// Where it may be, in the order in which to try.
    pub(super) files: Vec<CString>,
    pub(super) arguments: Vec<CString>,
    pub(super) environment: Vec<Cow<'static, CStr>>,
}

impl Executable {
    /// `file` is looked for in PATH, unless it is a path; `changes` are made to our own environment.
    pub(crate) fn new(
        file: &OsStr,
        arguments: &[OsString],
        changes: &[(&str, Option<String>)],
    ) -> io::Result<Self> {
        let text = |text: &OsStr| Ok::<_, io::Error>(CString::new(text.as_bytes())?);
        let all = std::iter::once(file).chain(arguments.iter().map(OsString::as_os_str));
        let is = |variable: &CStr, name: &str| {
            let rest = variable.to_bytes().strip_prefix(name.as_bytes());
            rest.is_some_and(|rest| rest.starts_with(b"="))
        };
        let is_kept = |variable: &&CStr| !changes.iter().any(|(name, _)| is(variable, name));
        let added = changes.iter().filter_map(|(name, value)| {
            Some(CString::new(format!("{name}={}", value.as_ref()?)).map(Cow::Owned))
        });
        let kept = environment().filter(is_kept).map(|variable| Ok(Cow::Borrowed(variable)));
        Ok(Self {
            files: candidates(text(file)?)?,
            arguments: all.map(text).collect::<Result<_, _>>()?,
            environment: kept.chain(added).collect::<Result<_, _>>()?,
        })
    }

    /// The same by /bin/sh: an executable file that is no program is a script.
    pub(super) fn as_script(&self, file: usize) -> Self {
        const SHELL: &CStr = c"/bin/sh";
        let words = [SHELL.into(), self.files[file].clone()].into_iter();
        Self {
            files: vec![SHELL.into()],
            arguments: words.chain(self.arguments.iter().skip(1).cloned()).collect(),
            environment: self.environment.clone(),
        }
    }

    /// Whether a file that the kernel refuses as a program is text, as a script is. A file with
    /// zeroes in its first line is a program for other machines; shells use the same rule.
    pub(super) fn is_text(&self, file: usize) -> bool {
        let mut begin = [0; 256];
        let path = Path::new(OsStr::from_bytes(self.files[file].to_bytes()));
        let Ok(length) = File::open(path).and_then(|mut file| file.read(&mut begin)) else {
            return false;
        };
        let line = begin[..length].split(|byte| *byte == b'\n').next().unwrap_or_default();
        !line.contains(&0) && !line.starts_with(b"\x7fELF")
    }

    /// Whether there is such a file at all.
    pub(super) fn exists(&self) -> bool {
        let is_there = |file: &CString| Path::new(OsStr::from_bytes(file.to_bytes())).is_file();
        self.files.iter().any(is_there)
    }
}

/// Where a file may be, as execvp(3) looks for it.
fn candidates(file: CString) -> io::Result<Vec<CString>> {
    const USUAL: &[u8] = b"/usr/local/bin:/bin:/usr/bin";
    if file.to_bytes().contains(&b'/') {
        return Ok(vec![file]);
    }
    if file.is_empty() {
        return Ok(Vec::new());
    }
    let path = |one: &'static CStr| one.to_bytes().strip_prefix(b"PATH=");
    let directories = environment().find_map(path).unwrap_or(USUAL);
    let within = |directory: &[u8]| {
        let directory = if directory.is_empty() { b"." } else { directory };
        Ok(CString::new([directory, b"/", file.to_bytes()].concat())?)
    };
    directories.split(|byte| *byte == b':').map(within).collect()
}
