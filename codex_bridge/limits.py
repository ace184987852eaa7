"""Every limit of the bridge, with its reason. Settings that an operator may change live in `config`."""

KIB = 1024
MIB = 1024 * KIB

# HTTP server -----------------------------------------------------------------------------------
# A browser's request with large cookies fits; a head is held in memory for each connection.
MAX_HEAD_BYTES = 32 * KIB
# Twice what browsers and proxies send; bounds the work of one head.
MAX_HEADER_COUNT = 100
# A long prompt with a large context fits. Files are uploaded, not sent inside JSON.
MAX_BODY_BYTES = 8 * MIB
# What a session holds is encoded again and again; encoders give up at some hundred levels.
MAX_JSON_DEPTH = 64
# Any other JSON that is read: what is read is also written, within something larger, and orjson writes 254 levels, the
# standard library as many as the stack has left.
MAX_READ_JSON_DEPTH = 200
# One chunk-size line with extensions; anything longer is an attack or a bug.
MAX_CHUNK_LINE_BYTES = 256
# A client that polls sends the same head again and again: short ones are read once and remembered.
MAX_REMEMBERED_HEAD_BYTES = 2 * KIB
REMEMBERED_HEADS = 256
# Each connection costs about 6 KB and a file descriptor.
MAX_CONNECTIONS = 4096
# Connections that the kernel holds until they are taken: clients that come all at once.
BACKLOG = 512
# Descriptors that are not for clients: files, pipes, upstreams, Codex.
RESERVED_DESCRIPTORS = 256
# Seconds to send a whole request head, from its first byte.
HEAD_TIMEOUT_S = 10.0
# Seconds without a byte of a body that the bridge is waiting for.
BODY_IDLE_TIMEOUT_S = 15.0
# Seconds for a whole gathered body; a slow drip must not hold a connection for ever.
BODY_TOTAL_TIMEOUT_S = 60.0
# Seconds a kept-alive connection may rest. Longer than the usual 60 s of a proxy in front.
IDLE_TIMEOUT_S = 75.0
# Seconds a client may leave a written answer unread before it is cut off.
WRITE_TIMEOUT_S = 60.0
# An unread body up to this size is read and dropped, so that the connection can be kept.
MAX_DRAINED_BODY_BYTES = 64 * KIB
# Seconds for short answers to end when the bridge stops; turns have had their own time before.
CLOSE_GRACE_S = 2.0
# Seconds to go on reading after a refusal, so that the client sees it before the connection ends.
LINGER_TIMEOUT_S = 2.0
# How often one sweep looks at all deadlines and heartbeats.
SWEEP_INTERVAL_S = 1.0
# A server whose last sweep is this long ago is broken, or the whole process stood still.
SWEEP_OVERDUE_S = 10.0
# One read from a socket. Measured: larger buffers do not gain, 256 KiB and more lose.
READ_BYTES = 64 * KIB

# Access and errors ------------------------------------------------------------------------------
# A shorter token can be guessed; it is taken, with a warning.
SHORT_TOKEN_CHARACTERS = 16
# Shorter secrets are not looked for in texts: they would blank out ordinary words.
MIN_SECRET_CHARACTERS = 6
# A base URL, a key (some are signed tokens) or a model's name given at run time.
MAX_CHOICE_CHARACTERS = 8 * KIB
# Keys that the configuration had before and that are still kept out of logs: turns may use them for a while.
MAX_HIDDEN_KEYS = 100
# A field's name in an error comes from outside; a longer one is no name.
MAX_FIELD_CHARACTERS = 80

# Streams ---------------------------------------------------------------------------------------
# The comment heartbeat keeps proxies and browsers from closing a quiet stream.
HEARTBEAT_S = 15.0
# What EventSource waits before it reconnects.
STREAM_RETRY_MS = 2000
# Unsent bytes after which a reader is fed from the log, as fast as it reads, instead of live.
MAX_STREAM_BUFFER_BYTES = 256 * KIB
# Events that follow each other faster than this are written together; the first never waits.
GATHER_S = 0.005
# What a session keeps for readers that lag or come back. One that lags behind all of it is closed.
MAX_LOG_BYTES = 4 * MIB
# So many are kept whatever their size: a few events of megabytes must not cut off a reader that keeps up.
MIN_LOG_EVENTS = 8
# What is left of that when nothing has happened in a session for LOG_REST_S.
MAX_IDLE_LOG_BYTES = 16 * KIB
LOG_REST_S = 60.0
# Events are written to the store this long after the first of them, together...
STORE_INTERVAL_S = 0.25
# ...or at once when there are so many bytes of them.
MAX_UNSTORED_BYTES = MIB
# A larger event is not stored: who missed it begins anew with the session, which holds what it told.
MAX_STORED_EVENT_BYTES = MIB
# What is told only once it is stored waits no longer than this for a slow disk.
MAX_HOLD_S = 2.0
# The newest runtime events shown in a session's JSON.
MAX_RECENT_EVENTS = 40
# Events that are looked through for those when a session is read from the store: most are deltas, which do not count.
MAX_EVENTS_LOOKED_THROUGH = 400
# Longer texts inside those are cut there (the stream carries them whole).
MAX_RECENT_EVENT_CHARACTERS = 500

# Sessions --------------------------------------------------------------------------------------
# Sessions that are kept in memory when nothing happens in them; all others are read from the store when asked for.
MAX_LOADED_SESSIONS = 500
# One whose messages are longer leaves the memory once nothing has happened in it for LOG_REST_S.
MAX_RESTING_CHARACTERS = 250_000
# A message is a prompt, not a file; Codex itself refuses more than about 1 MiB.
MAX_MESSAGE_CHARACTERS = 1_000_000
# What a host tells the model beside the message: a page's content fits, a site's does not. It is part of a
# session's JSON, which is sent often.
MAX_CONTEXT_BYTES = 64 * KIB
# Messages of the latest turn in a session's brief JSON: a turn may have hundreds.
MAX_BRIEF_MESSAGES = 4
# What a host may attach to one message.
MAX_ATTACHMENTS = 20
# One page of the session list.
DEFAULT_PAGE = 50
MAX_PAGE = 200
# A page of long messages or items ends early: all of it is encoded at once, while everybody else waits.
MAX_PAGE_CHARACTERS = 4_000_000
# A key is a random name; hosts use UUIDs, some add what it is for.
MAX_IDEMPOTENCY_KEY_CHARACTERS = 255
# Items are numbered through; a larger number is no cursor that was given.
MAX_ITEM_POSITION = 999_999_999
# A question of the model is short; an answer may be a text that a person pastes.
MAX_ANSWER_CHARACTERS = 64 * KIB
# Of a file change that waits for an approval: its diff is told whole with its item and with the approval itself, and
# cut where a session is told, which is often.
MAX_BRIEF_DIFF_CHARACTERS = 2000
# Settled approvals that are remembered, so that a late answer is told what became of them; older ones are looked up.
MAX_SETTLED_APPROVALS = 200
# Places in the queue that are told at each step; behind them a place is told after so many steps, or each turn that begins
# would cost an event for each of thousands that wait.
EXACT_PLACES = 50
ROUGH_PLACES = 50
# Turns that are told their places before the event loop does something else: some milliseconds.
MAX_TOLD_AT_ONCE = 100
# Turns that wait for a person lend their slots to others, so many at most: Codex holds each in memory (about 1 MB).
MAX_LENT_SLOTS = 200
# What a busy bridge tells clients to wait.
BUSY_RETRY_AFTER_S = 2
# What one that drains tells them: most turns end in that time, and the next bridge is up a second later.
DRAIN_RETRY_AFTER_S = 5

# Store -----------------------------------------------------------------------------------------
# What is posted waits so long for more to come: a transaction for each event would cost ten times as much, and
# nobody notices what the death of the machine takes of the last moment.
STORE_GATHER_S = 0.05
# How often a database that cannot be written is tried again.
STORE_RETRY_S = 1.0
# What clients are told to wait meanwhile.
STORE_RETRY_AFTER_S = 2
# Damaged places of a database that are logged, each once: a file with more is past telling.
MAX_TOLD_DAMAGES = 100
# Somebody else may have locked the database (a backup, a person's sqlite3): seconds to wait for them.
STORE_LOCK_WAIT_S = 5.0
# After so many transactions the -wal file is copied into the database, while nobody waits for it: that takes
# milliseconds. SQLite does it inside a transaction once the file has this many pages: a burst may not fill the disk.
STORE_CHECKPOINT_TRANSACTIONS = 50
STORE_CHECKPOINT_PAGES = 2000
# What the bridge waits for the last writes when it stops; a disk that hangs must not keep it.
STORE_CLOSE_S = 5.0
# A transaction or a query that takes longer is told as trouble, and nothing new is taken meanwhile: a disk that hangs fails
# nothing by itself.
STORE_SLOW_S = 10.0
# Posted writes that are kept while the disk does not take them, of some KB each.
MAX_WAITING_WRITES = 10_000
# Events of a session that stay however old: more than its JSON shows.
MIN_KEPT_EVENTS = 50
# A client that tries a request again does so within minutes; a day is for one that was down meanwhile.
IDEMPOTENCY_KEEP_S = 24 * 3600.0
# When what is old is deleted: once a start is over, and then now and again.
RETENTION_FIRST_S = 5.0
RETENTION_INTERVAL_S = 3600.0
# One step of it: some milliseconds for the writer, whatever the rows; and the pause behind it, which leaves the
# writer to others nearly all of the time.
RETENTION_STEP_ROWS = 200
RETENTION_STEP_BYTES = 4 * MIB
RETENTION_STEP_PAGES = 256
RETENTION_STEP_SESSIONS = 200
RETENTION_PAUSE_S = 0.05

# Codex -----------------------------------------------------------------------------------------
# A line is one JSON-RPC message; a command's output or a diff can have many megabytes.
MAX_LINE_BYTES = 64 * MIB
# An answer that passes through the gateway: Codex tells it in one such line, with something around it, and one that is
# too long would end the Codex of all sessions.
MAX_PASSED_ANSWER_BYTES = 60 * MIB
# One read from Codex's standard output.
CHILD_READ_BYTES = 256 * KIB
# The end of Codex's standard error that is shown when it dies.
STDERR_TAIL_BYTES = 4 * KIB
# A cold start takes 0.2-0.8 s on a quiet machine, several seconds on a loaded one.
HANDSHAKE_TIMEOUT_S = 30.0
# Every other call answers in milliseconds; 40 threads that start at once need seconds.
CALL_TIMEOUT_S = 60.0
# `turn/interrupt` takes milliseconds, and the commands' end as well; after this Codex counts as wedged and is ended.
INTERRUPT_GRACE_S = 10.0
# The commands of a turn that Codex itself has interrupted are ended at once; this is for a machine under load.
COMMAND_END_S = 5.0
# Closing standard input ends Codex in 70 ms; then TERM, then KILL, each after this long.
CHILD_STOP_STEP_S = 2.0
# What a child has left behind is killed, and gone in milliseconds; what is not then cannot be ended.
ORPHAN_END_S = 2.0
# How often it is looked whether they are: they are nobody's children here, so nothing tells of their end.
ORPHAN_LOOK_S = 0.005
# Wait before a restart after a quick exit, doubled each time.
RESTART_BACKOFF_S = 0.5
# Quick exits in a row after which Codex is given up: the waits before were 0.5, 1, 2, 4 and 8 s, and no turn should
# wait longer to be told.
MAX_QUICK_EXITS = 6
# How long it stays given up, or a new program that did not start is left alone: it may be mended meanwhile.
GIVE_UP_S = 60.0
# A child that lived this long was healthy, also one that no turn has begun on: the back-off starts anew.
HEALTHY_AFTER_S = 10.0
# Threads kept open in Codex; beyond it the one used longest ago is closed and resumed when needed.
MAX_LOADED_THREADS = 32
# After Codex's death, for its last output; a grandchild may hold the pipe for ever.
LAST_OUTPUT_S = 1.0
# What is kept of each stream of a command that the bridge runs: more is no answer that anybody reads.
MAX_COMMAND_OUTPUT_BYTES = 4 * MIB
# With `codex exec`, how long an app-server that ran a command is kept for the next one: a start costs 0.3 s, and rest
# 140 MB.
SANDBOX_REST_S = 10.0
# Retries that Codex makes after a broken stream or an upstream that is busy, about 1 s apart.
STREAM_RETRIES = 4
# `codex --version` answers at once, and the protocol is printed in 50 ms; a binary that does not is not Codex.
VERSION_TIMEOUT_S = 10.0

# What /runtime/info waits for findings that are not there yet; what is not known by then is told as unknown.
PREFLIGHT_WAIT_S = 2.0
# What `doctor` waits: a person can, and a cold machine needs it.
DOCTOR_WAIT_S = 60.0
# One sandboxed command takes 90 ms; this is for a machine under load.
PROBE_TIMEOUT_S = 20.0
# How long a Codex that was fine is not asked again for its version and protocol: it may be upgraded.
CODEX_RECHECK_S = 60.0
# After a bad verdict on the sandbox: a machine's settings may have been mended meanwhile.
SANDBOX_RECHECK_S = 10.0
# A model server that answers at all answers a list of models in a second or two.
UPSTREAM_CHECK_TIMEOUT_S = 5.0
# How long its answer is believed, and any bad finding: a host that polls must not burden it, nor the machine.
RECHECK_S = 10.0
# Codex gives up its own account calls after 10 or 15 s, but never the start of a device login; until that ends it
# answers no other account call.
ACCOUNT_CALL_TIMEOUT_S = 20.0
# What /auth/status and /auth/device wait for Codex's word on who is signed in: a cold start fits.
ACCOUNT_WAIT_S = 5.0
# What /health waits for it, and only as long as nothing is known: a health check must not hang with Codex.
HEALTH_ACCOUNT_WAIT_S = 1.0
# How long it is believed. Changes are told by Codex; only its death and what others do to its files are not.
ACCOUNT_RECHECK_S = 10.0
# The bridge watches a model's stream for silence itself; Codex's own watch is set beyond any turn.
CODEX_IDLE_TIMEOUT_MS = 24 * 3600 * 1000

# Upstream --------------------------------------------------------------------------------------
# Kept-alive connections to one upstream that rest.
MAX_IDLE_UPSTREAM_CONNECTIONS = 16
# Upstreams close resting connections after 60 s or more; a younger one is safe to use again.
UPSTREAM_IDLE_REUSE_S = 20.0
# A longer request is handed over in pieces, so that a slow upload shows that it moves.
UPLOAD_PIECE_BYTES = MIB
# The longest wait that an upstream may ask for before a turn tries again; a longer one holds a slot for nothing.
MAX_RETRY_AFTER_S = 60
# The part of an upstream's error answer that is read for its message.
MAX_ERROR_BODY_BYTES = 64 * KIB
# An upstream's message in an error is for a person: longer ones are pages of HTML.
MAX_UPSTREAM_MESSAGE_CHARACTERS = 500
# What one answer can have used; a larger number is a mistake, and sums of it no longer fit where hosts keep them.
MAX_TOKENS = 1 << 40
# Bodies under /v1 are streamed and never held: their size is the upstream's affair.
UNLIMITED = 1 << 62
# A Responses request carries the whole conversation, images included.
MAX_GATEWAY_BODY_BYTES = 256 * MIB
# A function's name as OpenAI's Chat Completions takes it; other upstreams take as much.
MAX_TOOL_NAME_CHARACTERS = 64
# How long an upstream without Responses is spoken to as chat before Responses is tried again: it may be upgraded, and one
# request in an hour that is refused costs nobody anything.
WIRE_RECHECK_S = 3600.0
# Upstreams of which that is remembered: sessions may name their own. One that is forgotten is asked again.
MAX_KNOWN_UPSTREAMS = 1000

# The service manager ------------------------------------------------------------------------------
# How often `systemctl status` learns how many turns run; only changes are told.
STATUS_INTERVAL_S = 2.0
# systemd takes a datagram at once; one that does not must not hold the event loop for long.
NOTIFY_TIMEOUT_S = 0.5
# What the rest of a stop may take when all turns have ended: Codex's three steps, short answers, what is still written.
STOP_MARGIN_S = 15.0
# Sockets that a service manager may hand over; more are a mistake.
MAX_GIVEN_SOCKETS = 64

# The tools ----------------------------------------------------------------------------------------
# Longer than any path that Linux takes.
MAX_PATH_CHARACTERS = 4096
# A cursor is a path from the workspace's root, of as many names as lists go deep, each byte as %NN.
MAX_CURSOR_CHARACTERS = 80_000
# A query or a glob beyond this was not written by anybody.
MAX_PATTERN_CHARACTERS = 1000
# A page that a model can still read, and the most that a host may want at once.
DEFAULT_LIST_ENTRIES = 500
MAX_LIST_ENTRIES = 5000
DEFAULT_READ_LINES = 500
MAX_READ_LINES = 5000
DEFAULT_SEARCH_MATCHES = 100
MAX_SEARCH_MATCHES = 2000
DEFAULT_LOG_COMMITS = 20
MAX_LOG_COMMITS = 500
# Linux takes no single argument beyond 128 KiB.
MAX_COMMAND_CHARACTERS = 32 * KIB
# As long as a model waits by default, and as long as a build may take.
DEFAULT_COMMAND_TIMEOUT_MS = 60_000
MAX_COMMAND_TIMEOUT_MS = 600_000
# What fits into a request's body beside the rest.
MAX_PATCH_CHARACTERS = MIB
# Threads at once, with one for each turn of as many as may run, and some for others. More of them hang: at a disk, and
# who has given that up comes again.
MAX_THREADS = 1_200
# When a turn is interrupted, what a tool still does with files ends within milliseconds; a disk that hangs does not.
TOOL_END_S = 2.0
# Of a command's output, a third from its begin and the rest from its end: what a model reads of one step.
MAX_TOOL_OUTPUT_CHARACTERS = 48 * KIB
# git answers within a second also in large repositories; a cold disk needs longer.
GIT_TIMEOUT_S = 30.0
# More changed files are no news but a mistake, such as a build directory that is not ignored.
MAX_STATUS_FILES = 2000
# A longer diff, git's or that of a patch, is read by file.
MAX_DIFF_CHARACTERS = 256 * KIB
# Tools that hosts run at once, each a process or a thread of this machine.
MAX_HOST_TOOLS = 16
# Of a hunk that does not fit, in an error: enough to see which one it is.
MAX_TOLD_HUNK_CHARACTERS = 1000
# Around a change in a diff, as git shows it.
DIFF_CONTEXT_LINES = 3
# Lines that are compared each with each for a diff: that is some seconds in the worst case, and minutes for five times as many.
MAX_DIFFED_LINES = 400
# Of all edits of a file together, an old line with a new one: a second or two in the worst case. The rest is told as replaced.
MAX_DIFFED_PAIRS = 1_000_000
# As many links in one path as Linux follows.
MAX_LINK_HOPS = 40
# Names that are looked up for one path, those of its links and of each way back too.
MAX_PATH_STEPS = 4096
# For one look at files. A page deep in a file of gigabytes takes seconds; a network's disk may hang.
FILE_TOOL_S = 20.0
# Names of a directory that are sorted at a time: a page and more, and some MB at most.
LIST_BATCH = 10_000
# Deeper trees are made by mistake or to make somebody stumble.
MAX_LIST_DEPTH = 100
# Text in one answer of read_file: what a model reads at once.
MAX_READ_BYTES = 256 * KIB
# A longer line is data in one line, such as a bundle.
MAX_READ_LINE_CHARACTERS = 2000
# A larger file is not read to its end for its hash: that takes a second for each GB.
MAX_HASHED_BYTES = 64 * MIB
# One read of a file that is streamed.
SCAN_BYTES = MIB
# The part of a file that tells whether it is text; git looks at the same.
SNIFFED_BYTES = 8000
# Globs that one with braces may stand for; {a,b}{a,b}... doubles them each time.
MAX_GLOB_VARIANTS = 100
# A larger file is no text that somebody wrote, and is read whole where there is no ripgrep.
MAX_SEARCHED_FILE_BYTES = 16 * MIB
# Of a line with a match: what is around the match.
MAX_MATCH_CHARACTERS = 500
# A line of ripgrep's answer, which holds the whole line that matches, escaped.
MAX_SEARCH_LINE_BYTES = 8 * MIB
# ripgrep takes some 20 MB; it holds all matches of one line at once, with ninety bytes for each.
MAX_SEARCH_MEMORY_BYTES = 512 * MIB
# One patch touches some files; each is held in memory before and after, so that it can be put back.
MAX_PATCHED_FILES = 500
MAX_PATCHED_FILE_BYTES = 16 * MIB
MAX_PATCHED_BYTES = 64 * MIB
# The files that a turn's diff holds as they were and as they are: as many as one patch may change, several times over.
MAX_TURN_DIFF_CHARACTERS = 256 * MIB
# Lines of one of them: each is an object of its own while a patch is fitted, and of 16 MiB of empty ones that is a GB.
MAX_PATCHED_LINES = 1_000_000
# Patches wait for each other; each takes milliseconds.
PATCH_WAIT_S = 60.0
# Of a repository's configuration, or a file that names its directory. Larger ones are nobody's who means well.
MAX_GIT_FILE_BYTES = 64 * KIB

# Verification -------------------------------------------------------------------------------------
# One question to a model: a large one on a cold server takes its time.
PROBE_ANSWER_TIMEOUT_S = 120.0
# One small edit, with some questions: a slow model on its own machine gets through.
TRIAL_TIMEOUT_S = 300.0
# Models are told by name in an evidence; more is no sentence.
MAX_TOLD_MODELS = 5
# The part of a model's words that an evidence repeats.
MAX_EVIDENCE_CHARACTERS = 300
# Reports are kept for that many combinations of provider, address and model.
MAX_VERIFICATIONS = 32
# An answer to a probe is a few words; one beyond this is none.
MAX_PROBE_BYTES = MIB

# The tool loop ------------------------------------------------------------------------------------
# The question that a person is asked: a sentence or two.
MAX_JUSTIFICATION_CHARACTERS = 1000
# Of a tool's result for a model: about 15,000 tokens; what is told of a command fits. The tools have pages for more.
MAX_TOOL_RESULT_CHARACTERS = 60_000
# Steps of a turn, a model request each: a long task takes some dozens, a model that goes in circles all of them.
MAX_TURN_STEPS = 100
# Calls of a turn: some models make dozens at once.
MAX_TURN_CALLS = 500
# Tokens of a turn: all steps with a conversation of usual length. A loop gone wild must not cost a fortune.
MAX_TURN_TOKENS = 10_000_000
# Answers in a row that cannot be used: who does not find the form by then does not find it.
MAX_CORRECTIONS = 3
# Of one answer, with what was thought before it: a longer one repeats itself. As JSON it still fits into a line of Codex's.
MAX_MODEL_ANSWER_CHARACTERS = 10_000_000
# What a model is told at most: about 100,000 tokens, which most can read. One that says it is too long gets half.
MAX_CONVERSATION_CHARACTERS = 400_000
# What an image counts in that: about 1000 tokens, however many bytes it has.
IMAGE_CHARACTERS = 4_000
# What Codex is told of a conversation that it has not heard: half of such a conversation, for its own instructions and tools come on top.
MAX_RETOLD_CHARACTERS = 200_000
# What stays of the newest results where nothing else can be left out.
MIN_TRIMMED_RESULT_CHARACTERS = 2_000
# A conversation that was halved so often and is still too long for a model will not fit.
MAX_HALVINGS = 4
# The wait before a request is tried again, doubled each time; an upstream may ask for a longer one.
RETRY_DELAY_S = 0.5
# What the upstreams' APIs take of one image, and all of a message together.
MAX_IMAGE_BYTES = 20 * MIB
MAX_IMAGES_BYTES = 40 * MIB
# What a person has accepted for a session; the oldest is asked for again.
MAX_ACCEPTED = 1000
# Texts of a tool's result that are told with it are short ones; the item has the long.
MAX_TOLD_TEXT_CHARACTERS = 200

# Reading intent out of text -----------------------------------------------------------------------
# The longest patch, escaped in JSON: a block that is longer is text.
MAX_ACTION_CHARACTERS = 2 * MIB
# Blocks of one answer that are read for tool calls, and calls that are made of them: nobody plans further ahead.
MAX_ACTIONS = 50
# A line that may begin a block is held back so long; no mark is longer.
MAX_MARK_CHARACTERS = 100
# Of what was done in a turn, in the line below its last answer: it is read by a person.
MAX_TOLD_ACTIONS = 20
MAX_TOLD_COMMAND_CHARACTERS = 80
