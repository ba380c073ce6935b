//! Caches that come and go over one folder, with small models.

use super::*;
use crate::engine::blocks::Chain;
use crate::engine::kernels::KvKind;
use crate::engine::kv_cache::{Capacity, KvCache};
use crate::engine::model::tests::tiny::Tiny;
use crate::engine::model::{Batch, Model, Options};
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;
use tempfile::TempDir;

/// Long enough for any disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// A model, and the folder that its caches share.
struct House {
    model: Model,
    identity: Identity,
    kind: KvKind,
    settings: Settings,
    warnings: Arc<Mutex<Vec<String>>>,
}

/// What became of a prompt.
#[derive(Debug, PartialEq)]
struct Answered {
    /// Of its last token.
    logits: Vec<f32>,
    restored: usize,
}

impl House {
    fn new(dir: &Path, tiny: &Tiny, kind: KvKind) -> House {
        let gguf = tiny.gguf();
        let identity = Identity::of(&gguf, SystemTime::UNIX_EPOCH);
        let model = Model::load(gguf, Options { threads: Some(2), ..Options::default() }).unwrap();
        let settings = Settings { dir: dir.to_path_buf(), bytes: 1 << 30 };
        House { model, identity, kind, settings, warnings: Arc::default() }
    }

    /// An empty cache of up to so many tokens.
    fn cache(&self, context: usize) -> KvCache {
        let capacity = Capacity { kind: self.kind, ..Capacity::whole(2, context) };
        let mut cache = self.model.cache_of(capacity).unwrap();
        let warnings = self.warnings.clone();
        let warn: Warn = Arc::new(move |problem| warnings.lock().unwrap().push(problem.into()));
        self.model.keep_prefixes(&mut cache, &self.settings, self.identity.clone(), warn).unwrap();
        cache
    }

    /// Answers a prompt in the first slot, by what is there already.
    fn ask(&self, cache: &mut KvCache, tokens: &[u32]) -> Answered {
        cache.blocks().begin(0, Chain::root(&[]), tokens).unwrap();
        let mut restored = 0;
        let mut more = cache.seek(0, tokens);
        while more {
            let Restored { tokens, more: next } = cache.restore(0, tokens, true);
            (restored, more) = (restored + tokens, next);
        }
        let mut batch = Batch::new();
        for at in cache.len(0)..tokens.len() {
            batch.push(tokens[at], 0, at, at + 1 == tokens.len());
        }
        let logits = self.model.forward(cache, &batch).unwrap().row(0).to_vec();
        cache.blocks().release(0);
        Answered { logits, restored }
    }

    /// The same by a cache that holds nothing, and whose blocks are kept.
    fn restart(&self, tokens: &[u32]) -> Answered {
        let mut cache = self.cache(tokens.len() + 1);
        let answered = self.ask(&mut cache, tokens);
        cache.finish(PATIENCE);
        answered
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.settings.dir).unwrap();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// The file of the block after the first `tokens`.
    fn file(&self, cache: &KvCache, tokens: &[u32]) -> PathBuf {
        let chain = tokens.chunks(BLOCK).fold(Chain::root(&[]), |chain, tokens| chain.then(tokens));
        self.settings.dir.join(Key::new(&cache.prefixes.as_ref().unwrap().identity, &chain).name())
    }
}

fn prompt(len: usize, turn: usize) -> Vec<u32> {
    (0..len).map(|at| (at * at + at / 7 + if at < 2000 { 0 } else { turn }) as u32 % 50).collect()
}

#[test]
fn a_restart_finds_what_was_computed_and_it_is_the_same_to_the_last_bit() {
    for (kind, tiny) in [
        (KvKind::F16, Tiny::new("qwen2")),
        (KvKind::Fp8, Tiny::new("gemma3")),
        (KvKind::Q4, Tiny { head: 32, ..Tiny::new("llama") }),
    ] {
        let dir = TempDir::new().unwrap();
        let house = House::new(&dir.path().join("prefixes"), &tiny, kind);
        let first = house.restart(&prompt(2010, 1));
        assert_eq!(first.restored, 0);
        // The system prompt of 2,000 tokens is 62 whole blocks and a bit.
        assert_eq!(house.files().len(), 62);
        for (turn, restored) in [(1, 1984), (2, 1984)] {
            let elsewhere = TempDir::new().unwrap();
            let fresh = House::new(elsewhere.path(), &tiny, kind).restart(&prompt(2010, turn));
            assert_eq!(house.restart(&prompt(2010, turn)), Answered { restored, ..fresh }, "{kind:?}");
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&house.settings.dir), 0o700);
        assert!(house.files().iter().all(|file| mode(file) == 0o600));
        assert_eq!(*house.warnings.lock().unwrap(), [""; 0]);
    }
}

#[test]
fn what_is_over_is_on_disk_before_the_end() {
    let dir = TempDir::new().unwrap();
    let house = House::new(dir.path(), &Tiny::new("llama"), KvKind::F16);
    let mut cache = house.cache(200);
    house.ask(&mut cache, &prompt(100, 1));
    let others: Vec<u32> = (0..40).map(|at| 49 - at).collect();
    house.ask(&mut cache, &others);
    let begun = Instant::now();
    while house.files().iter().filter(|file| file.extension().is_some_and(|kind| kind == "kv")).count() < 3 {
        assert!(begun.elapsed() < PATIENCE, "{:?}", house.files());
        thread::yield_now();
    }
    // As if the process had been killed.
    assert_eq!(house.restart(&prompt(100, 1)).restored, 96);
}

#[test]
fn what_is_damaged_is_computed_and_deleted() {
    let tokens = prompt(200, 1);
    let dir = TempDir::new().unwrap();
    let expected = House::new(dir.path(), &Tiny::new("llama"), KvKind::F16).restart(&tokens);
    let check = |name: &str, damage: &dyn Fn(&Path, &Path)| {
        let dir = TempDir::new().unwrap();
        let house = House::new(dir.path(), &Tiny::new("llama"), KvKind::F16);
        house.restart(&tokens);
        let cache = house.cache(64);
        let [third, fourth] = [96, 128].map(|end| house.file(&cache, &tokens[..end]));
        damage(&third, &fourth);
        drop(cache);
        let mut cache = house.cache(201);
        let answered = house.ask(&mut cache, &tokens);
        assert_eq!((answered.restored, answered.logits == expected.logits), (64, true), "{name}");
        assert!(!third.exists(), "{name}");
        let warnings = house.warnings.lock().unwrap().clone();
        assert!(
            matches!(&warnings[..], [one] if one.contains(&*third.file_name().unwrap().to_string_lossy())),
            "{warnings:?}"
        );
        // What was computed anew is whole again.
        cache.finish(PATIENCE);
        assert_eq!(house.restart(&tokens).restored, 192, "{name}");
    };
    let change = |at: fn(usize) -> usize| {
        move |third: &Path, _: &Path| {
            let mut bytes = fs::read(third).unwrap();
            let at = at(bytes.len());
            bytes[at] ^= 1;
            fs::write(third, bytes).unwrap();
        }
    };
    check("magic", &change(|_| 0));
    check("version", &change(|_| 8));
    check("key", &change(|_| 30));
    check("digest", &change(|_| 60));
    check("first byte", &change(|_| 88));
    check("last byte", &change(|len| len - 1));
    check("another block", &|third, fourth| fs::write(third, fs::read(fourth).unwrap()).unwrap());
    check("cut", &|third, _| fs::write(third, &fs::read(third).unwrap()[..500]).unwrap());
    check("empty", &|third, _| fs::write(third, []).unwrap());
    check("longer", &|third, _| fs::write(third, [fs::read(third).unwrap(), vec![0]].concat()).unwrap());
    check("text", &|third, _| fs::write(third, "not a block of keys and values").unwrap());
}

#[test]
fn what_is_another_model_s_or_stored_otherwise_is_not_taken() {
    let tokens = prompt(200, 1);
    let dir = TempDir::new().unwrap();
    let tiny = Tiny::new("llama");
    let house = House::new(dir.path(), &tiny, KvKind::F16);
    house.restart(&tokens);
    let check = |house: House, restored| assert_eq!(house.restart(&tokens).restored, restored);
    check(House::new(dir.path(), &Tiny { seed: 2, ..tiny.clone() }, KvKind::F16), 0);
    check(House::new(dir.path(), &tiny, KvKind::Fp8), 0);
    let changed = Identity::of(&tiny.gguf(), SystemTime::UNIX_EPOCH + Duration::from_nanos(1));
    check(House { identity: changed, ..House::new(dir.path(), &tiny, KvKind::F16) }, 0);
    check(house, 192);
}

#[test]
fn what_cannot_be_written_is_computed_and_told_once() {
    let tokens = prompt(200, 1);
    let (dir, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let expected = House::new(there.path(), &Tiny::new("llama"), KvKind::F16).restart(&tokens);
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let unwritable = House::new(&file.join("folder"), &Tiny::new("llama"), KvKind::F16);
    let mut full = House::new(&dir.path().join("full"), &Tiny::new("llama"), KvKind::F16);
    full.settings.bytes = 1000;
    for house in [unwritable, full] {
        for _ in 0..2 {
            let mut cache = house.cache(201);
            assert_eq!(house.ask(&mut cache, &tokens), expected);
            assert_eq!(house.ask(&mut cache, &tokens).logits, expected.logits);
            cache.finish(PATIENCE);
            let warnings = std::mem::take(&mut *house.warnings.lock().unwrap());
            let named = |one: &String| one.contains(&*house.settings.dir.to_string_lossy());
            assert!(matches!(&warnings[..], [one] if named(one)), "{warnings:?}");
        }
    }
}

#[test]
fn names_are_keys() {
    let key = Key::new(&[7; 32], &Chain::root(b"x"));
    assert_eq!(Key::of_name(&key.name()), Some(key));
    for name in ["", "x.kv", &key.name().to_uppercase(), &key.name()[1..], &format!("0{}", key.name()), "ü.kv"] {
        assert_eq!(Key::of_name(name), None, "{name}");
    }
}

proptest! {
    /// Whatever is written and read, the folder stays within its bounds, what is found is what was written, and what was
    /// used last is there.
    #[test]
    fn a_folder_is_bounded(deeds in prop::collection::vec((0_u8..12, any::<bool>()), 1..60), most in 3_u64..9) {
        let dir = TempDir::new().unwrap();
        let stranger = dir.path().join("photo.jpg");
        fs::write(&stranger, "mine").unwrap();
        let mut folder = Folder::new(dir.path(), most * record::file_bytes(100));
        let key = |name: u8| Key::new(&[0; 32], &Chain::root(&[name]));
        let mut last = None;
        for (at, (name, write)) in deeds.into_iter().enumerate() {
            if write {
                folder.write(&key(name), &[name; 100]).unwrap();
                last = Some(name);
            } else if let Ok(block) = folder.read(&key(name), 100) {
                prop_assert_eq!(block, vec![name; 100]);
            }
            // Time passes between deeds: file systems tell it in steps.
            for found in folder.keys().unwrap() {
                let file = fs::File::options().write(true).open(dir.path().join(found.name())).unwrap();
                let time = file.metadata().unwrap().modified().unwrap();
                if time > SystemTime::UNIX_EPOCH + Duration::from_secs(1000) {
                    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(at as u64)).unwrap();
                }
            }
            prop_assert!(folder.keys().unwrap().len() as u64 <= most);
            if let Some(last) = last {
                prop_assert!(folder.read(&key(last), 100).is_ok());
            }
        }
        prop_assert!(stranger.exists());
    }
}
