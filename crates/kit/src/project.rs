//! Projects to start from: a policy that works, and all that it takes to build it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};

use super::{CONTRACT, KitError, PolicyName, c_bindings, contract, helper_crate};

/// One folder a language, and `common`, which each of them gets. In what is text,
/// `{{name}}` stands for the policy's name, `{{contract}}` and `{{version}}` for those of the
/// contract, `{{language}}`, `{{needs}}` and `{{source}}` for what [`Language`] says.
static TEMPLATES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/templates");

/// What a policy is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// Rust, with the helper crate edgestore-policy
    Rust,
    /// JavaScript, with componentize-js
    Js,
    /// Python, with componentize-py
    Python,
    /// C, with clang and no C library
    C,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Rust, Self::Js, Self::Python, Self::C];

    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::Js => "JavaScript",
            Self::Python => "Python",
            Self::C => "C",
        }
    }

    /// What `build.sh` needs and does not install by itself.
    pub fn needs(self) -> &'static str {
        match self {
            Self::Rust => {
                "Rust, with rustup (https://rustup.rs), and `edgestore-host` on the path or in the \
                 variable EDGESTORE_HOST"
            }
            Self::Js => "Node.js 20 or later, with npm",
            Self::Python => "Python 3.10 or later, with pip and venv",
            Self::C => {
                "clang and wasm-ld (Debian, Ubuntu: `apt-get install clang lld`), and \
                 `edgestore-host` on the path or in the variable EDGESTORE_HOST"
            }
        }
    }

    /// The file to begin with.
    pub fn source(self) -> &'static str {
        match self {
            Self::Rust => "src/lib.rs",
            Self::Js => "src/policy.js",
            Self::Python => "policy.py",
            Self::C => "policy.c",
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Js => "js",
            Self::Python => "python",
            Self::C => "c",
        }
    }
}

/// The files of a new policy.
#[derive(Debug)]
pub struct Project {
    /// Path in the project, and contents.
    files: Vec<(String, Vec<u8>)>,
}

impl Project {
    /// Puts the files together; nothing is written yet.
    ///
    /// # Errors
    /// [`KitError::Broken`], which no program that was tested returns.
    pub fn new(name: &PolicyName, language: Language) -> Result<Self, KitError> {
        let (package, version) =
            contract().ok_or_else(|| KitError::Broken("the contract has no version".into()))?;
        let fill = |text: &str| {
            text.replace("{{name}}", &name.to_string())
                .replace("{{contract}}", package)
                .replace("{{version}}", version)
                .replace("{{language}}", language.name())
                .replace("{{needs}}", language.needs())
                .replace("{{source}}", language.source())
        };
        let mut files = vec![("wit/sync.wit".to_owned(), CONTRACT.as_bytes().to_owned())];
        for folder in [language.folder(), "common"] {
            let dir = TEMPLATES
                .get_dir(folder)
                .ok_or_else(|| KitError::Broken(format!("there are no templates for {folder}")))?;
            collect(dir, dir, &fill, &mut files)?;
        }
        let more = |folder: &str, more: Vec<(String, Vec<u8>)>| {
            let folder = folder.to_owned();
            more.into_iter().map(move |(path, bytes)| (format!("{folder}/{path}"), bytes))
        };
        match language {
            Language::Rust => files.extend(more("edgestore-policy", helper_crate::files()?)),
            Language::C => files.extend(more("bindings", c_bindings::generate()?)),
            Language::Js | Language::Python => {}
        }
        Ok(Self { files })
    }

    /// Paths and contents of the files; paths are relative to the project.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
    }

    /// Writes the project to a folder, which is made where it is missing.
    ///
    /// # Errors
    /// [`KitError::NotEmpty`] when there is something in the folder; [`KitError::Io`].
    pub fn write(&self, dir: &Path) -> Result<(), KitError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| KitError::Io { path, error }
        };
        fs::create_dir_all(dir).map_err(io(dir))?;
        if fs::read_dir(dir).map_err(io(dir))?.next().is_some() {
            return Err(KitError::NotEmpty { dir: dir.to_owned() });
        }
        for (path, bytes) in self.files() {
            let path: PathBuf = dir.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(io(parent))?;
            }
            write_file(&path, bytes).map_err(io(&path))?;
        }
        Ok(())
    }
}

fn collect(
    root: &Dir<'_>,
    dir: &Dir<'_>,
    fill: &impl Fn(&str) -> String,
    files: &mut Vec<(String, Vec<u8>)>,
) -> Result<(), KitError> {
    for file in dir.files() {
        let path = file.path();
        let broken = || KitError::Broken(format!("{} is no template", path.display()));
        let text = file.contents_utf8().ok_or_else(broken)?;
        let path = path.strip_prefix(root.path()).map_err(|_| broken())?.display().to_string();
        // Under their own names these would mean something in this repository.
        let path = match path.as_str() {
            "gitignore" => ".gitignore".to_owned(),
            "Cargo.toml.in" => "Cargo.toml".to_owned(),
            _ => path,
        };
        files.push((path, fill(text).into_bytes()));
    }
    dir.dirs().try_for_each(|dir| collect(root, dir, fill, files))
}

/// Scripts can be run.
fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    #[cfg(unix)]
    if bytes.starts_with(b"#!") {
        use std::os::unix::fs::PermissionsExt as _;
        let mut permissions = file.metadata()?.permissions();
        // Whoever may read it may run it.
        permissions.set_mode(permissions.mode() | (permissions.mode() & 0o444) >> 2);
        file.set_permissions(permissions)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(language: Language) -> Project {
        Project::new(&"my-own".parse().unwrap(), language).unwrap()
    }

    #[test]
    fn each_language_has_the_contract_its_source_a_build_command_and_the_steps() {
        for language in Language::ALL {
            let project = project(language);
            let text = |path: &str| {
                let file = project.files().find(|(name, _)| *name == path);
                let (_, bytes) = file.unwrap_or_else(|| panic!("{language:?} has no {path}"));
                String::from_utf8(bytes.to_owned()).unwrap()
            };
            assert_eq!(text("wit/sync.wit"), CONTRACT);
            assert!(text("build.sh").contains("my-own.wasm"));
            assert!(text(language.source()).contains("my-own"));
            assert!(text("README.md").contains("policy check my-own.wasm"));
            assert!(text(".gitignore").contains("/my-own.wasm"));
        }
    }

    #[test]
    fn no_placeholder_is_left_and_no_path_twice() {
        for language in Language::ALL {
            let project = project(language);
            let mut paths = std::collections::HashSet::new();
            for (path, bytes) in project.files() {
                assert!(paths.insert(path.to_owned()), "{path} is there twice");
                let ours = !path.starts_with("edgestore-policy/") && !path.starts_with("bindings/");
                let left = String::from_utf8_lossy(bytes).contains("{{");
                assert!(!ours || !left, "{language:?}: {path} has a placeholder");
            }
        }
    }

    #[test]
    fn a_folder_with_something_in_it_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine"), "precious").unwrap();
        let error = project(Language::C).write(dir.path()).unwrap_err();
        assert!(matches!(error, KitError::NotEmpty { .. }), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = project(Language::C).write(&dir.path().join("mine")).unwrap_err();
        assert!(error.to_string().contains("mine"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn the_build_command_can_be_run_and_other_files_can_not() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        project(Language::Js).write(&dir.path().join("new/one")).unwrap();
        let mode = |path| {
            let path = dir.path().join("new/one").join(path);
            fs::metadata(path).unwrap().permissions().mode()
        };
        assert_ne!(mode("build.sh") & 0o100, 0);
        assert_eq!(mode("README.md") & 0o111, 0);
    }
}
