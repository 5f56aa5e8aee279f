//! Calls in any order and with any handles, by a policy of each version of the contract.

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use edgestore_engine::{
    Engine, EngineOptions, Hash, StagedSegment, StagingFile, WallClock, Watermark,
};
use edgestore_protocol::{FetchError, PeerError, PeerTransport, SegmentList, SegmentRef};
use wasmtime::component::Resource;

use crate::memory_cursors::Cursors;
use crate::state::State;
use crate::wait::lock;
use crate::{Archive, CursorLayout, Limits, Peer, Services, SystemClock, UploadOutcome};

/// Of one program.
const CALLS: usize = 64;

/// More than any answer here takes.
const LONG_MS: u64 = 60_000;

/// Makes the calls that `bytes` say, by 0.1 and by 0.2: both get the same answers, each in its own
/// types, and leave the same behind.
pub fn adapters(bytes: &[u8]) {
    let Some((&mood, program)) = bytes.split_first() else { return };
    let program = &program[..program.len().min(2 * CALLS)];
    let (by_old, by_new) = (play(mood, program, call_0_1), play(mood, program, call_0_2));
    // The one answer that 0.1 has no word for.
    let translate = |text: String| text.replace("TooManyBytes", "TooManyTransfers");
    assert_eq!(by_old, by_new.into_iter().map(translate).collect::<Vec<_>>());
}

type Call = fn(&mut Player, op: u8, arg: u8) -> wasmtime::Result<String>;

/// What the calls were answered, and what they have left behind.
fn play(mood: u8, program: &[u8], call: Call) -> Vec<String> {
    let (db, cursors) = (Database::take(), Arc::new(Cursors::default()));
    let peer = |id: &str, mood| Arc::new(Peer::new(id.to_owned(), Arc::new(FuzzPeer { mood }), 4));
    let services = Services {
        engine: Arc::clone(&db.engine),
        peers: vec![peer("a", mood), peer("b", 0)],
        current: 0,
        cursors: cursors.clone(),
        archive: (mood & 0x80 != 0).then(|| Arc::new(NoArchive) as Arc<dyn Archive>),
        downloads: Arc::default(),
        clock: Arc::new(SystemClock),
        seed: 7,
        observer: None,
    };
    let limits = Limits {
        cursor_bytes: 40,
        handles: 20,
        transfers: 3,
        pulled_bytes: 12 << 10,
        ..Limits::default()
    };
    let layout = CursorLayout { policy: "fuzz".to_owned(), schema: 1 };
    let state = State::with_services(&limits, layout, services);
    let mut player = Player { state, handles: Vec::new(), applies: false };
    let mut answers = Vec::new();
    for pair in program.chunks_exact(2) {
        match call(&mut player, pair[0], pair[1]) {
            Ok(answer) => answers.push(answer),
            // It ends an instance.
            Err(error) => {
                answers.push(format!("{error:#}"));
                break;
            }
        }
    }
    let applied = player.state.tick().map(|tick| format!("{:?}", tick.applied));
    answers.push(applied.expect("it is in a tick"));
    answers.push(format!("{:?} {:?}", db.engine.root(), lock(&cursors.values)));
    if !player.applies {
        db.give_back();
    }
    answers
}

struct Player {
    state: State,
    /// What was handed out, of any kind.
    handles: Vec<u32>,
    /// Whether a segment was given to the engine.
    applies: bool,
}

impl Player {
    /// One that was handed out, whatever it is a handle of, or one that is made up.
    fn handle(&self, arg: u8) -> u32 {
        let made_up = u32::from(arg) << 4;
        self.handles.get(usize::from(arg)).copied().unwrap_or(made_up)
    }

    fn keep<T: 'static>(&mut self, resource: &Resource<T>) {
        self.handles.push(resource.rep());
    }
}

fn lent<T: 'static>(rep: u32) -> Resource<T> {
    Resource::new_borrow(rep)
}

fn owned<T: 'static>(rep: u32) -> Resource<T> {
    Resource::new_own(rep)
}

fn newest(hash: Hash) -> super::types::Hash {
    hash.into()
}

/// A call of one version, whose modules have the same names in each.
macro_rules! calls {
    ($call:ident, $($modules:tt)*) => {
        fn $call(player: &mut Player, op: u8, arg: u8) -> wasmtime::Result<String> {
            use $($modules)*::*;
            let rep = player.handle(arg);
            let state = &mut player.state;
            Ok(match op % 26 {
                0 => {
                    let all = peers::Host::all(state)?;
                    all.iter().for_each(|peer| player.keep(peer));
                    format!("{}", all.len())
                }
                1 => peers::HostPeer::id(state, lent(rep))?,
                2 => {
                    let answer = peers::HostPeer::probe(state, lent(rep))?;
                    let mark = |mark: peers::Watermark| (mark.confirmed_lsn, mark.write_token);
                    format!("{:?}", answer.map(|info| (info.root, info.watermark.map(mark))))
                }
                3 => match peers::HostPeer::manifest(state, lent(rep))? {
                    Ok(manifest) => {
                        player.keep(&manifest);
                        "a manifest".to_owned()
                    }
                    Err(error) => format!("{error:?}"),
                },
                4..=6 => {
                    let hash = newest(SEGMENTS.named(op / 26).hash).into();
                    match peers::HostPeer::start_fetch(state, lent(rep), hash)? {
                        Ok(transfer) => {
                            player.keep(&transfer);
                            // So that nothing depends on how long it takes.
                            let done = vec![lent(transfer.rep())];
                            let state = &mut player.state;
                            format!("{:?}", transfers::Host::wait_any(state, done, LONG_MS)?)
                        }
                        Err(error) => format!("{error:?}"),
                    }
                }
                7 => format!("{:?}", peers::HostPeer::drop(state, owned(rep))?),
                8 => format!("{}", peers::HostManifest::length(state, lent(rep))?),
                9 => format!("{:?}", peers::HostManifest::root(state, lent(rep))?),
                10 => {
                    let missing = peers::HostManifest::missing(state, lent(rep))?;
                    let of = |segment: &types::SegmentRef| (segment.hash, segment.id);
                    format!("{:?}", missing.iter().map(of).collect::<Vec<_>>())
                }
                11 => format!("{:?}", peers::HostManifest::drop(state, owned(rep))?),
                12 => {
                    let transfers = vec![lent(rep), lent(rep)];
                    format!("{:?}", transfers::Host::wait_any(state, transfers, 1)?)
                }
                13 => format!("{:?}", transfers::HostTransfer::hash(state, lent(rep))?),
                14 | 15 => match transfers::HostTransfer::take(state, lent(rep))? {
                    Ok(segment) => {
                        player.keep(&segment);
                        "a segment".to_owned()
                    }
                    Err(error) => format!("{error:?}"),
                },
                16 => format!("{:?}", transfers::HostTransfer::drop(state, owned(rep))?),
                17 => format!("{:?}", transfers::HostSegment::hash(state, lent(rep))?),
                18 => format!("{}", transfers::HostSegment::size(state, lent(rep))?),
                19 => format!("{:?}", transfers::HostSegment::drop(state, owned(rep))?),
                20 | 21 => {
                    player.applies = true;
                    let applied = local::Host::apply(&mut player.state, lent(rep))?;
                    let of = |it: local::Applied| (it.written, it.skipped, it.duplicate);
                    format!("{:?}", applied.map(of))
                }
                22 => {
                    let hash = newest(SEGMENTS.named(arg).hash).into();
                    format!("{:?} {}", local::Host::root(state)?, local::Host::has(state, hash)?)
                }
                23 => {
                    let stored = cursor::Host::store(state, vec![arg; usize::from(arg)])?;
                    format!("{stored:?} {:?}", cursor::Host::load(state)?)
                }
                24 => {
                    let available = archive::Host::available(state)?;
                    let uploaded = archive::Host::upload(state, lent(rep))?;
                    format!("{available} {uploaded:?}")
                }
                _ => {
                    clock::Host::now_ms(state)?;
                    clock::Host::monotonic_ms(state)?;
                    let text = String::from_utf8_lossy(&[arg, op]).into_owned();
                    log::Host::write(state, log::Level::Info, text)?;
                    format!("{}", random::Host::next_u64(state)?)
                }
            })
        }
    };
}

calls!(call_0_1, super::old);
calls!(call_0_2, super::super);

/// A database that is used until something was applied to it, since to make one takes long.
struct Database {
    engine: Arc<Engine>,
    _dir: tempfile::TempDir,
}

thread_local! {
    static UNUSED: RefCell<Vec<Database>> = const { RefCell::new(Vec::new()) };
}

impl Database {
    fn take() -> Self {
        UNUSED.with_borrow_mut(Vec::pop).unwrap_or_else(|| {
            let dir = tempfile::tempdir().expect("a folder");
            let engine = Engine::open(dir.path().join("db")).expect("an empty database");
            Self { engine: Arc::new(engine), _dir: dir }
        })
    }

    fn give_back(self) {
        UNUSED.with_borrow_mut(|unused| unused.push(self));
    }
}

static SEGMENTS: LazyLock<Segments> = LazyLock::new(Segments::make);

/// What the peers list: sound segments, one of the far future, bytes that are none, bytes of
/// another name, and one that they do not give.
struct Segments(Vec<(SegmentRef, Option<Vec<u8>>)>);

impl Segments {
    fn make() -> Self {
        let of = |key: &[u8], at: Duration| {
            let dir = tempfile::tempdir().expect("a folder");
            let clock = WallClock::new(move || SystemTime::UNIX_EPOCH + at);
            let options = EngineOptions { clock, ..EngineOptions::default() };
            let engine = Engine::open_with(dir.path().join("db"), options).expect("a database");
            engine.put(b"ns", key, b"value").expect("a record");
            let hash = engine.flush().expect("a segment").expect("a segment").hash;
            let (mut file, _) = engine.open_segment(&hash).expect("its file").expect("its file");
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut file, &mut bytes).expect("its bytes");
            (hash, Some(bytes))
        };
        let day = Duration::from_secs(24 * 60 * 60);
        let files = [
            of(b"one", day),
            of(b"two", 2 * day),
            of(b"far ahead", 200 * 365 * day),
            (Hash::of(b"no segment"), Some(b"no segment".to_vec())),
            (Hash::of(b"another"), Some(b"other bytes".to_vec())),
            (Hash::of(b"not given"), None),
        ];
        let named = |(id, (hash, bytes))| (SegmentRef { hash, id, info: None }, bytes);
        Self((0..).zip(files).map(named).collect())
    }

    /// One of them, or one that nobody lists.
    fn named(&self, choice: u8) -> SegmentRef {
        let unlisted = SegmentRef { hash: Hash::of(b"unlisted"), id: 0, info: None };
        self.0.get(usize::from(choice)).map_or(unlisted, |(segment, _)| segment.clone())
    }
}

struct FuzzPeer {
    mood: u8,
}

impl FuzzPeer {
    fn answers(&self) -> Result<(), PeerError> {
        Err(match self.mood & 0x7f {
            1 => PeerError::Unreachable("fuzz".to_owned()),
            2 => PeerError::Timeout("fuzz".to_owned()),
            3 => PeerError::Status(503),
            4 => PeerError::Malformed("fuzz".to_owned()),
            5 => PeerError::TooLarge { what: "answer", limit: 7 },
            _ => return Ok(()),
        })
    }
}

impl PeerTransport for FuzzPeer {
    fn root(&self) -> Result<Hash, PeerError> {
        self.answers()?;
        Ok(Hash::root(SEGMENTS.0.iter().map(|(segment, _)| segment.hash)))
    }

    fn watermark(&self) -> Result<Option<Watermark>, PeerError> {
        Ok((self.mood & 0x40 != 0).then_some(Watermark { confirmed_lsn: 3, write_token: 4 }))
    }

    fn manifest(&self) -> Result<SegmentList, PeerError> {
        self.answers()?;
        Ok(SEGMENTS.0.iter().map(|(segment, _)| segment.clone()).collect())
    }

    fn fetch(
        &self,
        hash: Hash,
        mut into: StagingFile,
        _cancel: &Arc<AtomicBool>,
    ) -> Result<StagedSegment, FetchError> {
        let found = SEGMENTS.0.iter().find(|(segment, _)| segment.hash == hash);
        let bytes = found.and_then(|(_, bytes)| bytes.as_ref()).ok_or(FetchError::NotFound)?;
        into.write_all(bytes).map_err(FetchError::Storage)?;
        Ok(into.verify(hash)?)
    }
}

struct NoArchive;

impl Archive for NoArchive {
    fn upload(&self, _engine: &Engine, _hash: Hash) -> io::Result<UploadOutcome> {
        Ok(UploadOutcome::AlreadyThere)
    }
}
