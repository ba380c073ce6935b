//! Compiles the CUDA kernels with NVRTC, NVIDIA's compiler as a library, which needs neither a card nor CUDA installed:
//! `make kernels` fetches it. Without it the build goes on, and the program says that it has no kernels.

use libloading::{Library, Symbol};
use std::ffi::{CString, c_char, c_int, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{env, fs, thread};

const SOURCES: &str = "src/engine/kernels/cuda";

/// What kernels are compiled for, by NVRTC's names. From 8.0 on there is all that the kernels need; PTX is for cards that
/// come after.
const TARGETS: [&str; 6] = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_120a", "compute_80"];

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Error> {
    println!("cargo::rerun-if-changed={SOURCES}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SOVEREIGN_NVRTC");
    println!("cargo::rerun-if-env-changed=SOVEREIGN_CUDA_TARGETS");

    let images = match nvrtc_folder() {
        Some(folder) => compile_all(&folder)?,
        None => {
            println!(
                "cargo::warning=no CUDA kernels in this build: `make kernels` fetches their compiler (then build again)"
            );
            String::new()
        }
    };
    let out = PathBuf::from(env::var("OUT_DIR")?).join("cuda_images.rs");
    let list = format!("/// All that this build has.\npub static IMAGES: &[Image] = &[{images}];\n");
    if fs::read_to_string(&out).ok().as_ref() != Some(&list) {
        fs::write(out, list)?;
    }
    Ok(())
}

/// Where `make kernels` unpacks NVRTC and its headers.
fn nvrtc_folder() -> Option<PathBuf> {
    let folder = match env::var_os("SOVEREIGN_NVRTC") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env::var_os("HOME")?).join(".cache/sovereign/nvrtc"),
    };
    folder.join("nvidia/cuda_nvrtc/lib/libnvrtc.so.12").exists().then_some(folder)
}

struct Job {
    name: String,
    source: PathBuf,
    target: &'static str,
    compiled: PathBuf,
}

/// Compiles what isn't compiled yet; returns the list of images as Rust.
fn compile_all(folder: &Path) -> Result<String, Error> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(SOURCES)?.map(|entry| Ok(entry?.path())).collect::<Result<_, Error>>()?;
    files.sort();
    let of = |extension: &str| {
        let files = files.clone().into_iter();
        files.filter(move |file| file.extension().is_some_and(|found| found == extension)).collect::<Vec<_>>()
    };
    let mut headers = DefaultHasher::new();
    for header in of("cuh") {
        fs::read(header)?.hash(&mut headers);
    }
    // For who works on kernels and has one card.
    let only = env::var("SOVEREIGN_CUDA_TARGETS").ok();
    let wanted = |target: &str| only.as_ref().is_none_or(|only| only.split(',').any(|only| only == target));
    let cache = folder.join("compiled");
    fs::create_dir_all(&cache)?;

    let mut jobs = Vec::new();
    for source in of("cu") {
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read(&source)?;
        for target in TARGETS.into_iter().filter(|target| wanted(target)) {
            let mut hash = headers.clone();
            (&text, target, OPTIONS, folder).hash(&mut hash);
            let compiled = cache.join(format!("{name}-{target}-{:016x}", hash.finish()));
            jobs.push(Job { name: name.clone(), source: source.clone(), target, compiled });
        }
    }
    let missing: Vec<&Job> = jobs.iter().filter(|job| !job.compiled.exists()).collect();
    if !missing.is_empty() {
        let nvrtc = Nvrtc::load(folder)?;
        let at_once = thread::available_parallelism().map_or(1, usize::from).min(missing.len());
        thread::scope(|scope| {
            let workers: Vec<_> = (0..at_once)
                .map(|worker| {
                    let (nvrtc, missing) = (&nvrtc, &missing);
                    scope.spawn(move || {
                        missing.iter().skip(worker).step_by(at_once).try_for_each(|job| nvrtc.compile(job))
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err("NVRTC died".into())))
        })?;
    }

    let mut list = String::new();
    for job in &jobs {
        let Job { name, target, compiled, .. } = job;
        list += &format!("\n    Image {{ name: {name:?}, target: {target:?}, bytes: include_bytes!({compiled:?}) }},");
    }
    Ok(list)
}

const OPTIONS: [&str; 3] = ["--std=c++17", "-default-device", "-lineinfo"];

type Program = *mut c_void;
type Status = c_int;

/// The compiler. All functions return zero for success.
struct Nvrtc {
    library: Library,
    includes: Vec<String>,
}

impl Nvrtc {
    fn load(folder: &Path) -> Result<Nvrtc, Error> {
        let library = folder.join("nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
        // SAFETY: NVIDIA's library, whose initialisers may run at any time.
        let library = unsafe { Library::new(library) }?;
        let headers = folder.join("nvidia/cuda_runtime/include");
        let includes = [headers.as_path(), Path::new(SOURCES)].map(|path| format!("-I{}", path.display()));
        Ok(Nvrtc { library, includes: includes.into() })
    }

    fn compile(&self, job: &Job) -> Result<(), Error> {
        let source = CString::new(fs::read(&job.source)?)?;
        let name = CString::new(job.source.to_string_lossy().as_bytes())?;
        let options: Vec<CString> = OPTIONS
            .map(str::to_owned)
            .into_iter()
            .chain(self.includes.iter().cloned())
            .chain([format!("--gpu-architecture={}", job.target)])
            .map(CString::new)
            .collect::<Result<_, _>>()?;
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let ptx = job.target.starts_with("compute");

        // SAFETY: the symbols are NVRTC's, with the signatures of `nvrtc.h`; strings end with a zero and outlive the calls;
        // what is written has the size that was asked for before.
        unsafe {
            type Create = unsafe extern "C" fn(
                *mut Program,
                *const c_char,
                *const c_char,
                c_int,
                *const *const c_char,
                *const *const c_char,
            ) -> Status;
            type Size = unsafe extern "C" fn(Program, *mut usize) -> Status;
            type Get = unsafe extern "C" fn(Program, *mut c_char) -> Status;
            let create: Symbol<Create> = self.library.get(b"nvrtcCreateProgram\0")?;
            let compile: Symbol<unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status> =
                self.library.get(b"nvrtcCompileProgram\0")?;
            let destroy: Symbol<unsafe extern "C" fn(*mut Program) -> Status> =
                self.library.get(b"nvrtcDestroyProgram\0")?;
            let get = |program, size: &[u8], get: &[u8]| -> Result<Vec<u8>, Error> {
                let (size, get): (Symbol<Size>, Symbol<Get>) = (self.library.get(size)?, self.library.get(get)?);
                let mut len = 0;
                size(program, &mut len);
                let mut bytes = vec![0; len];
                get(program, bytes.as_mut_ptr().cast());
                Ok(bytes)
            };
            let mut program = std::ptr::null_mut();
            create(&mut program, source.as_ptr(), name.as_ptr(), 0, std::ptr::null(), std::ptr::null());
            let status = compile(program, options.len() as c_int, options.as_ptr());
            let result = if status == 0 {
                let (size, bytes): (&[u8], &[u8]) = match ptx {
                    true => (b"nvrtcGetPTXSize\0", b"nvrtcGetPTX\0"),
                    false => (b"nvrtcGetCUBINSize\0", b"nvrtcGetCUBIN\0"),
                };
                get(program, size, bytes)
            } else {
                let log = get(program, b"nvrtcGetProgramLogSize\0", b"nvrtcGetProgramLog\0")?;
                let log = String::from_utf8_lossy(&log).into_owned();
                Err(format!("{} for {}: {log}", job.source.display(), job.target).into())
            };
            destroy(&mut program);
            // Another build may want the same at the same time: it appears whole or not at all.
            let partial = job.compiled.with_extension(std::process::id().to_string());
            fs::write(&partial, result?)?;
            fs::rename(&partial, &job.compiled)?;
        }
        Ok(())
    }
}
