CREATE TABLE artifacts (
	digest VARCHAR(64) NOT NULL,
	kind VARCHAR(16) NOT NULL,
	facts TEXT NOT NULL,
	bytes BIGINT NOT NULL,
	created_at BIGINT NOT NULL,
	PRIMARY KEY (digest)
);

CREATE TABLE postings (
	entry VARCHAR(26) NOT NULL,
	account VARCHAR(128) NOT NULL,
	currency VARCHAR(3) NOT NULL,
	amount_nano BIGINT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (entry, account, currency)
);

CREATE INDEX postings_by_account ON postings (account);

CREATE TABLE prices (
	version VARCHAR(64) NOT NULL,
	terms TEXT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (version)
);

CREATE TABLE tenants (
	id VARCHAR(64) NOT NULL,
	"plan" VARCHAR(64) NOT NULL,
	budget_nano BIGINT,
	active BOOLEAN NOT NULL,
	created_at BIGINT NOT NULL,
	PRIMARY KEY (id)
);

CREATE TABLE chains (
	tenant VARCHAR(64) NOT NULL,
	sequence BIGINT NOT NULL,
	hash VARCHAR(64) NOT NULL,
	at BIGINT NOT NULL,
	held_requests BIGINT NOT NULL,
	held_inputs BIGINT NOT NULL,
	held_tokens BIGINT NOT NULL,
	PRIMARY KEY (tenant),
	CONSTRAINT open_holds_are_not_negative CHECK (held_requests >= 0 and held_inputs >= 0 and held_tokens >= 0),
	FOREIGN KEY(tenant) REFERENCES tenants (id)
);

CREATE TABLE consents (
	id VARCHAR(26) NOT NULL,
	tenant VARCHAR(64) NOT NULL,
	contributor VARCHAR(128) NOT NULL,
	purpose VARCHAR(16) NOT NULL,
	granted BOOLEAN NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(tenant) REFERENCES tenants (id)
);

CREATE INDEX consents_by_contributor ON consents (tenant, contributor, purpose);

CREATE TABLE counters (
	tenant VARCHAR(64) NOT NULL,
	period VARCHAR(7) NOT NULL,
	requests BIGINT NOT NULL,
	inputs BIGINT NOT NULL,
	tokens BIGINT NOT NULL,
	spent_nano BIGINT NOT NULL,
	PRIMARY KEY (tenant, period),
	FOREIGN KEY(tenant) REFERENCES tenants (id)
);

CREATE TABLE invoices (
	id VARCHAR(26) NOT NULL,
	number VARCHAR(32) NOT NULL,
	tenant VARCHAR(64) NOT NULL,
	period VARCHAR(7) NOT NULL,
	currency VARCHAR(3) NOT NULL,
	total_nano BIGINT NOT NULL,
	first_sequence BIGINT NOT NULL,
	last_sequence BIGINT NOT NULL,
	body TEXT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (number),
	FOREIGN KEY(tenant) REFERENCES tenants (id)
);

CREATE INDEX invoices_by_tenant ON invoices (tenant, period);

CREATE TABLE keys (
	public_id VARCHAR(32) NOT NULL,
	tenant VARCHAR(64) NOT NULL,
	mode VARCHAR(4) NOT NULL,
	scopes TEXT NOT NULL,
	hmac BLOB NOT NULL,
	created_at BIGINT NOT NULL,
	expires_at BIGINT,
	revoked_at BIGINT,
	PRIMARY KEY (public_id),
	FOREIGN KEY(tenant) REFERENCES tenants (id)
);

CREATE INDEX keys_by_tenant ON keys (tenant);

CREATE TABLE parents (
	child VARCHAR(64) NOT NULL,
	parent VARCHAR(64) NOT NULL,
	PRIMARY KEY (child, parent),
	FOREIGN KEY(child) REFERENCES artifacts (digest),
	FOREIGN KEY(parent) REFERENCES artifacts (digest)
);

CREATE INDEX parents_by_parent ON parents (parent);

CREATE TABLE releases (
	digest VARCHAR(64) NOT NULL,
	name VARCHAR(128) NOT NULL,
	registered_at BIGINT NOT NULL,
	PRIMARY KEY (digest),
	FOREIGN KEY(digest) REFERENCES artifacts (digest)
);

CREATE INDEX releases_by_name ON releases (name);

CREATE TABLE requests (
	id VARCHAR(26) NOT NULL,
	tenant VARCHAR(64) NOT NULL,
	idempotency_key VARCHAR(255) NOT NULL,
	body_sha256 VARCHAR(64) NOT NULL,
	state VARCHAR(8) NOT NULL,
	holder VARCHAR(26) NOT NULL,
	held_inputs BIGINT NOT NULL,
	held_tokens BIGINT NOT NULL,
	status INTEGER,
	answer TEXT,
	inputs TEXT,
	created_at BIGINT NOT NULL,
	lease_until BIGINT NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (tenant, idempotency_key),
	CONSTRAINT state_is_known CHECK (state in ('held', 'posted', 'released')),
	CONSTRAINT hold_is_not_negative CHECK (held_inputs >= 0 and held_tokens >= 0),
	FOREIGN KEY(tenant) REFERENCES tenants (id)
);

CREATE INDEX requests_by_state ON requests (state, lease_until);

CREATE TABLE runs (
	id VARCHAR(26) NOT NULL,
	fingerprint VARCHAR(64) NOT NULL,
	step VARCHAR(32) NOT NULL,
	version INTEGER NOT NULL,
	name VARCHAR(128) NOT NULL,
	settings TEXT NOT NULL,
	inputs TEXT NOT NULL,
	environment TEXT NOT NULL,
	metrics TEXT NOT NULL,
	core_ns BIGINT NOT NULL,
	wall_ns BIGINT NOT NULL,
	outcome VARCHAR(16) NOT NULL,
	error TEXT,
	output VARCHAR(64),
	started_at BIGINT NOT NULL,
	finished_at BIGINT NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(output) REFERENCES artifacts (digest)
);

CREATE INDEX runs_by_fingerprint ON runs (fingerprint);

CREATE INDEX runs_by_output ON runs (output);

CREATE TABLE feedback (
	id VARCHAR(26) NOT NULL,
	tenant VARCHAR(64) NOT NULL,
	request VARCHAR(26) NOT NULL,
	input INTEGER NOT NULL,
	release VARCHAR(64) NOT NULL,
	kind VARCHAR(16) NOT NULL,
	text TEXT NOT NULL,
	answered TEXT NOT NULL,
	label TEXT NOT NULL,
	contributor VARCHAR(128) NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (tenant, request, input),
	FOREIGN KEY(tenant) REFERENCES tenants (id),
	FOREIGN KEY(request) REFERENCES requests (id),
	FOREIGN KEY(release) REFERENCES releases (digest)
);

CREATE INDEX feedback_by_contributor ON feedback (contributor);

CREATE TABLE pointers (
	name VARCHAR(128) NOT NULL,
	release VARCHAR(64) NOT NULL,
	version BIGINT NOT NULL,
	PRIMARY KEY (name),
	FOREIGN KEY(release) REFERENCES releases (digest)
);

CREATE TABLE promotions (
	id VARCHAR(26) NOT NULL,
	name VARCHAR(128) NOT NULL,
	release VARCHAR(64) NOT NULL,
	replaced VARCHAR(64),
	version BIGINT NOT NULL,
	reason TEXT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (name, version),
	FOREIGN KEY(release) REFERENCES releases (digest)
);

CREATE TABLE turns (
	id VARCHAR(26) NOT NULL,
	name VARCHAR(128) NOT NULL,
	champion VARCHAR(64) NOT NULL,
	candidate VARCHAR(64),
	verdict VARCHAR(16) NOT NULL,
	decision TEXT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(champion) REFERENCES releases (digest),
	FOREIGN KEY(candidate) REFERENCES releases (digest)
);

CREATE TABLE usage (
	request VARCHAR(26) NOT NULL,
	tenant VARCHAR(64) NOT NULL,
	"key" VARCHAR(32) NOT NULL,
	release VARCHAR(64) NOT NULL,
	route VARCHAR(64) NOT NULL,
	inputs BIGINT NOT NULL,
	tokens BIGINT NOT NULL,
	compute_ns BIGINT NOT NULL,
	"plan" VARCHAR(64) NOT NULL,
	price_version VARCHAR(64) NOT NULL,
	amount_nano BIGINT NOT NULL,
	currency VARCHAR(3) NOT NULL,
	at BIGINT NOT NULL,
	sequence BIGINT NOT NULL,
	previous VARCHAR(64) NOT NULL,
	hash VARCHAR(64) NOT NULL,
	PRIMARY KEY (request),
	UNIQUE (tenant, sequence),
	CONSTRAINT usage_is_not_negative CHECK (inputs >= 0 and tokens >= 0 and compute_ns >= 0),
	FOREIGN KEY(request) REFERENCES requests (id),
	FOREIGN KEY(tenant) REFERENCES tenants (id),
	FOREIGN KEY(release) REFERENCES releases (digest)
);

CREATE INDEX usage_by_release ON usage (release);

CREATE INDEX usage_by_time ON usage (tenant, at);

CREATE TRIGGER promotions_no_update BEFORE UPDATE ON promotions
BEGIN SELECT RAISE(ABORT, 'promotions is append-only'); END;

CREATE TRIGGER promotions_no_delete BEFORE DELETE ON promotions
BEGIN SELECT RAISE(ABORT, 'promotions is append-only'); END;

CREATE TRIGGER turns_no_update BEFORE UPDATE ON turns
BEGIN SELECT RAISE(ABORT, 'turns is append-only'); END;

CREATE TRIGGER turns_no_delete BEFORE DELETE ON turns
BEGIN SELECT RAISE(ABORT, 'turns is append-only'); END;

CREATE TRIGGER prices_no_update BEFORE UPDATE ON prices
BEGIN SELECT RAISE(ABORT, 'prices is append-only'); END;

CREATE TRIGGER prices_no_delete BEFORE DELETE ON prices
BEGIN SELECT RAISE(ABORT, 'prices is append-only'); END;

CREATE TRIGGER usage_no_update BEFORE UPDATE ON usage
BEGIN SELECT RAISE(ABORT, 'usage is append-only'); END;

CREATE TRIGGER usage_no_delete BEFORE DELETE ON usage
BEGIN SELECT RAISE(ABORT, 'usage is append-only'); END;

CREATE TRIGGER postings_no_update BEFORE UPDATE ON postings
BEGIN SELECT RAISE(ABORT, 'postings is append-only'); END;

CREATE TRIGGER postings_no_delete BEFORE DELETE ON postings
BEGIN SELECT RAISE(ABORT, 'postings is append-only'); END;

CREATE TRIGGER invoices_no_update BEFORE UPDATE ON invoices
BEGIN SELECT RAISE(ABORT, 'invoices is append-only'); END;

CREATE TRIGGER invoices_no_delete BEFORE DELETE ON invoices
BEGIN SELECT RAISE(ABORT, 'invoices is append-only'); END;

CREATE TRIGGER feedback_no_update BEFORE UPDATE ON feedback
BEGIN SELECT RAISE(ABORT, 'feedback is append-only'); END;

CREATE TRIGGER feedback_no_delete BEFORE DELETE ON feedback
BEGIN SELECT RAISE(ABORT, 'feedback is append-only'); END;

CREATE TRIGGER consents_no_update BEFORE UPDATE ON consents
BEGIN SELECT RAISE(ABORT, 'consents is append-only'); END;

CREATE TRIGGER consents_no_delete BEFORE DELETE ON consents
BEGIN SELECT RAISE(ABORT, 'consents is append-only'); END;

CREATE TRIGGER requests_posted_no_update BEFORE UPDATE ON requests
WHEN OLD.state = 'posted' AND (NEW.id IS NOT OLD.id OR NEW.tenant IS NOT OLD.tenant OR NEW.idempotency_key IS NOT OLD.idempotency_key OR NEW.body_sha256 IS NOT OLD.body_sha256 OR NEW.state IS NOT OLD.state OR NEW.held_inputs IS NOT OLD.held_inputs OR NEW.held_tokens IS NOT OLD.held_tokens OR NEW.status IS NOT OLD.status OR NEW.created_at IS NOT OLD.created_at OR (NEW.answer IS NOT NULL AND NEW.answer IS NOT OLD.answer) OR (NEW.inputs IS NOT NULL AND NEW.inputs IS NOT OLD.inputs))
BEGIN SELECT RAISE(ABORT, 'a posted request never changes'); END;

CREATE TRIGGER requests_no_delete BEFORE DELETE ON requests
BEGIN SELECT RAISE(ABORT, 'a posted request never changes'); END;
