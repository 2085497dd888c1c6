CREATE TABLE file_parts (
	tenant VARCHAR(64) NOT NULL,
	sha256 VARCHAR(64) NOT NULL,
	number INTEGER NOT NULL,
	body BYTEA NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (tenant, sha256, number)
);

CREATE TABLE batches (
	id VARCHAR(40) NOT NULL,
	tenant VARCHAR(64) NOT NULL,
	"key" VARCHAR(32) NOT NULL,
	endpoint VARCHAR(64) NOT NULL,
	input_file VARCHAR(40) NOT NULL,
	said TEXT NOT NULL,
	state VARCHAR(16) NOT NULL,
	errors TEXT,
	total BIGINT NOT NULL,
	completed BIGINT NOT NULL,
	failed BIGINT NOT NULL,
	output_file VARCHAR(40),
	error_file VARCHAR(40),
	times TEXT NOT NULL,
	created_at BIGINT NOT NULL,
	expires_at BIGINT NOT NULL,
	holder VARCHAR(26),
	lease_until BIGINT NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(tenant) REFERENCES tenants (id)
);

CREATE INDEX batches_by_state ON batches (state, lease_until);

CREATE INDEX batches_by_tenant ON batches (tenant, id);

CREATE TABLE files (
	id VARCHAR(40) NOT NULL,
	tenant VARCHAR(64) NOT NULL,
	"key" VARCHAR(32) NOT NULL,
	purpose VARCHAR(32) NOT NULL,
	filename VARCHAR(255) NOT NULL,
	bytes BIGINT NOT NULL,
	sha256 VARCHAR(64) NOT NULL,
	created_at BIGINT NOT NULL,
	expires_at BIGINT,
	PRIMARY KEY (id),
	FOREIGN KEY(tenant) REFERENCES tenants (id)
);

CREATE INDEX files_by_content ON files (tenant, sha256);

CREATE TABLE jobs (
	id VARCHAR(40) NOT NULL,
	tenant VARCHAR(64) NOT NULL,
	"key" VARCHAR(32) NOT NULL,
	model VARCHAR(128) NOT NULL,
	base VARCHAR(64) NOT NULL,
	training_file VARCHAR(40) NOT NULL,
	validation_file VARCHAR(40),
	said TEXT NOT NULL,
	state VARCHAR(16) NOT NULL,
	error TEXT,
	release VARCHAR(64),
	served VARCHAR(128),
	result_file VARCHAR(40),
	trained_tokens BIGINT,
	core_ns BIGINT NOT NULL,
	attempts INTEGER NOT NULL,
	created_at BIGINT NOT NULL,
	finished_at BIGINT,
	holder VARCHAR(26),
	lease_until BIGINT NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(tenant) REFERENCES tenants (id),
	FOREIGN KEY(base) REFERENCES releases (digest),
	FOREIGN KEY(release) REFERENCES releases (digest)
);

CREATE INDEX jobs_by_state ON jobs (state, lease_until);

CREATE INDEX jobs_by_tenant ON jobs (tenant, id);

CREATE TABLE job_events (
	job VARCHAR(40) NOT NULL,
	number INTEGER NOT NULL,
	level VARCHAR(8) NOT NULL,
	type VARCHAR(8) NOT NULL,
	message TEXT NOT NULL,
	data TEXT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (job, number),
	FOREIGN KEY(job) REFERENCES jobs (id)
);
