ALTER TABLE keys ADD COLUMN budget_nano BIGINT;

ALTER TABLE keys ADD COLUMN quota TEXT;

ALTER TABLE requests ADD COLUMN "key" VARCHAR(32);

ALTER TABLE requests ADD COLUMN held_more TEXT;

CREATE INDEX requests_by_time ON requests (tenant, created_at);

ALTER TABLE usage ADD COLUMN more TEXT;

ALTER TABLE chains ADD COLUMN held_more TEXT;

ALTER TABLE chains ADD COLUMN due_nano BIGINT DEFAULT '0' NOT NULL;

ALTER TABLE counters ADD COLUMN more TEXT;

ALTER TABLE invoices ADD COLUMN first_event BIGINT;

ALTER TABLE invoices ADD COLUMN last_event BIGINT;

CREATE TABLE event_batches (
	number BIGINT NOT NULL,
	key VARCHAR(32) NOT NULL,
	events BIGINT NOT NULL,
	checks BYTEA NOT NULL,
	previous VARCHAR(64) NOT NULL,
	hash VARCHAR(64) NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (number)
);

CREATE TABLE event_sources (
	id INTEGER NOT NULL,
	source VARCHAR(255) NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (source)
);

CREATE TABLE events (
	tenant VARCHAR(64) NOT NULL,
	sequence BIGINT NOT NULL,
	batch BIGINT NOT NULL,
	source INTEGER NOT NULL,
	event VARCHAR(255) COLLATE "C" NOT NULL,
	meter VARCHAR(32) NOT NULL,
	units BIGINT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (tenant, sequence) INCLUDE (meter, units, at),
	CONSTRAINT units_are_not_negative CHECK (units >= 0)
);

CREATE INDEX events_by_batch ON events USING brin (batch);

CREATE UNIQUE INDEX events_by_identity ON events (source, event);

CREATE TRIGGER event_batches_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON event_batches
FOR EACH STATEMENT EXECUTE FUNCTION feilun_refuse();

CREATE TRIGGER event_sources_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON event_sources
FOR EACH STATEMENT EXECUTE FUNCTION feilun_refuse();

CREATE TRIGGER events_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON events
FOR EACH STATEMENT EXECUTE FUNCTION feilun_refuse();

CREATE TABLE gateways (
	gateway VARCHAR(26) NOT NULL,
	sequence INTEGER NOT NULL,
	machine VARCHAR(64) NOT NULL,
	cores INTEGER NOT NULL,
	wall_ns BIGINT NOT NULL,
	core_ns BIGINT NOT NULL,
	engine_ns BIGINT NOT NULL,
	load_ns BIGINT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (gateway, sequence)
);

CREATE INDEX gateways_by_time ON gateways (at);

CREATE TABLE key_counters (
	key VARCHAR(32) NOT NULL,
	period VARCHAR(7) NOT NULL,
	requests BIGINT NOT NULL,
	inputs BIGINT NOT NULL,
	tokens BIGINT NOT NULL,
	more TEXT,
	spent_nano BIGINT NOT NULL,
	PRIMARY KEY (key, period)
);

CREATE TABLE outbox (
	id VARCHAR(64) NOT NULL,
	kind VARCHAR(32) NOT NULL,
	subject VARCHAR(128) NOT NULL,
	payload TEXT NOT NULL,
	created_at BIGINT NOT NULL,
	due_at BIGINT NOT NULL,
	attempts INTEGER NOT NULL,
	delivered_at BIGINT,
	receipt TEXT,
	failure TEXT,
	dead_at BIGINT,
	PRIMARY KEY (id)
);

CREATE INDEX outbox_by_due ON outbox (delivered_at, due_at);

CREATE INDEX outbox_by_subject ON outbox (subject, created_at);

CREATE TABLE assignments (
	id VARCHAR(26) NOT NULL,
	tenant VARCHAR(64) NOT NULL,
	plan VARCHAR(64) NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(tenant) REFERENCES tenants (id)
);

CREATE INDEX assignments_by_tenant ON assignments (tenant, at);

CREATE TABLE grants (
	id VARCHAR(26) NOT NULL,
	tenant VARCHAR(64) NOT NULL,
	currency VARCHAR(3) NOT NULL,
	amount_nano BIGINT NOT NULL,
	expires_at BIGINT,
	reason TEXT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT grant_is_positive CHECK (amount_nano > 0),
	FOREIGN KEY(tenant) REFERENCES tenants (id)
);

CREATE INDEX grants_by_tenant ON grants (tenant);

CREATE TABLE notices (
	tenant VARCHAR(64) NOT NULL,
	subject VARCHAR(64) NOT NULL,
	period VARCHAR(7) NOT NULL,
	percent INTEGER NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (tenant, subject, period, percent),
	FOREIGN KEY(tenant) REFERENCES tenants (id)
);

CREATE TABLE plan_prices (
	id VARCHAR(26) NOT NULL,
	plan VARCHAR(64) NOT NULL,
	version VARCHAR(64) NOT NULL,
	begins_at BIGINT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (plan, at, begins_at),
	FOREIGN KEY(version) REFERENCES prices (version)
);

CREATE TABLE profiles (
	id VARCHAR(26) NOT NULL,
	tenant VARCHAR(64) NOT NULL,
	body TEXT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(tenant) REFERENCES tenants (id)
);

CREATE INDEX profiles_by_tenant ON profiles (tenant, id);

CREATE TABLE redemptions (
	id VARCHAR(26) NOT NULL,
	tenant VARCHAR(64) NOT NULL,
	coupon VARCHAR(64) NOT NULL,
	terms TEXT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (tenant, coupon),
	FOREIGN KEY(tenant) REFERENCES tenants (id)
);

CREATE TABLE credit_notes (
	id VARCHAR(26) NOT NULL,
	number VARCHAR(32) NOT NULL,
	invoice VARCHAR(26) NOT NULL,
	tenant VARCHAR(64) NOT NULL,
	currency VARCHAR(3) NOT NULL,
	total_nano BIGINT NOT NULL,
	body TEXT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (number),
	FOREIGN KEY(invoice) REFERENCES invoices (id),
	FOREIGN KEY(tenant) REFERENCES tenants (id)
);

CREATE INDEX credit_notes_by_invoice ON credit_notes (invoice);

CREATE TABLE grant_uses (
	id VARCHAR(26) NOT NULL,
	credit VARCHAR(26) NOT NULL,
	invoice VARCHAR(26),
	amount_nano BIGINT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT use_is_positive CHECK (amount_nano > 0),
	FOREIGN KEY(credit) REFERENCES grants (id),
	FOREIGN KEY(invoice) REFERENCES invoices (id)
);

CREATE INDEX grant_uses_by_grant ON grant_uses (credit);

CREATE TABLE payments (
	id VARCHAR(128) NOT NULL,
	invoice VARCHAR(26),
	kind VARCHAR(64) NOT NULL,
	status VARCHAR(32) NOT NULL,
	amount_nano BIGINT NOT NULL,
	currency VARCHAR(3) NOT NULL,
	happened_at BIGINT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(invoice) REFERENCES invoices (id)
);

CREATE INDEX payments_by_invoice ON payments (invoice);

CREATE TRIGGER gateways_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON gateways
FOR EACH STATEMENT EXECUTE FUNCTION feilun_refuse();

CREATE TRIGGER assignments_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON assignments
FOR EACH STATEMENT EXECUTE FUNCTION feilun_refuse();

CREATE TRIGGER grants_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON grants
FOR EACH STATEMENT EXECUTE FUNCTION feilun_refuse();

CREATE TRIGGER notices_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON notices
FOR EACH STATEMENT EXECUTE FUNCTION feilun_refuse();

CREATE TRIGGER plan_prices_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON plan_prices
FOR EACH STATEMENT EXECUTE FUNCTION feilun_refuse();

CREATE TRIGGER profiles_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON profiles
FOR EACH STATEMENT EXECUTE FUNCTION feilun_refuse();

CREATE TRIGGER redemptions_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON redemptions
FOR EACH STATEMENT EXECUTE FUNCTION feilun_refuse();

CREATE TRIGGER credit_notes_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON credit_notes
FOR EACH STATEMENT EXECUTE FUNCTION feilun_refuse();

CREATE TRIGGER grant_uses_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON grant_uses
FOR EACH STATEMENT EXECUTE FUNCTION feilun_refuse();

CREATE TRIGGER payments_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON payments
FOR EACH STATEMENT EXECUTE FUNCTION feilun_refuse();

CREATE TABLE seals (
	number BIGINT NOT NULL,
	name VARCHAR(32) NOT NULL,
	key VARCHAR(128) NOT NULL,
	row VARCHAR(64) NOT NULL,
	previous VARCHAR(64) NOT NULL,
	hash VARCHAR(64) NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (number)
);

CREATE TRIGGER seals_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON seals
FOR EACH STATEMENT EXECUTE FUNCTION feilun_refuse();

UPDATE chains SET due_nano = COALESCE((SELECT SUM(amount_nano) FROM usage WHERE usage.tenant = chains.tenant AND usage.sequence > COALESCE((SELECT MAX(last_sequence) FROM invoices WHERE invoices.tenant = chains.tenant), 0)), 0);

INSERT INTO assignments (id, tenant, plan, at) SELECT SUBSTR('00000000000000000000000000', 1, 26 - LENGTH(CAST(number AS VARCHAR))) || CAST(number AS VARCHAR), tenant, plan, at FROM (SELECT ROW_NUMBER() OVER (ORDER BY at, tenant, sequence) AS number, tenant, plan, at FROM (SELECT tenants.id AS tenant, 0 AS sequence, COALESCE((SELECT plan FROM usage WHERE usage.tenant = tenants.id ORDER BY sequence LIMIT 1), tenants.plan) AS plan, created_at AS at FROM tenants UNION ALL SELECT tenant, sequence, plan, at FROM (SELECT tenant, sequence, plan, at, LAG(plan) OVER (PARTITION BY tenant ORDER BY sequence) AS earlier FROM usage) AS used WHERE earlier <> plan UNION ALL SELECT tenants.id, chains.sequence + 1, tenants.plan, chains.at FROM tenants JOIN chains ON chains.tenant = tenants.id WHERE chains.sequence > 0 AND tenants.plan <> (SELECT plan FROM usage WHERE usage.tenant = tenants.id ORDER BY sequence DESC LIMIT 1)) AS changes) AS numbered;

INSERT INTO key_counters ("key", period, requests, inputs, tokens, spent_nano) SELECT "key", to_char(to_timestamp(at / 1000000) AT TIME ZONE 'UTC', 'YYYY-MM'), COUNT(*), SUM(inputs), SUM(tokens), SUM(amount_nano) FROM usage GROUP BY "key", to_char(to_timestamp(at / 1000000) AT TIME ZONE 'UTC', 'YYYY-MM');
